// River: a saga written by hand as jobs that insert each other; a refusal inserts the job that undoes. DATABASE_URL names its database.
//
// Argument: `transaction`, where a job is completed in the transaction that inserts the next one, or `batched`, where the next one is
// inserted first and River completes jobs in batches: faster, but what a crash leaves uncompleted runs again with all that follows it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"marty/bench/load"
)

// Step is a job's arguments; Name is one of reserve, charge, ship, refund, release.
type Step struct {
	Saga int64  `json:"saga"`
	Name string `json:"name"`
}

func (Step) Kind() string { return "step" }

type worker struct {
	river.WorkerDefaults[Step]
	pool    *pgxpool.Pool
	client  *river.Client[pgx.Tx]
	batched bool
	// By saga the channel on which its customer waits.
	waiting sync.Map
}

// next is the step behind this one, or how the saga ended.
func next(step Step) (string, string) {
	switch step.Name {
	case "reserve":
		return "charge", ""
	case "charge":
		return "ship", ""
	case "ship":
		if step.Saga%load.RefusedEach == 0 {
			return "refund", ""
		}
		return "", load.Completed
	case "refund":
		return "release", ""
	}
	return "", load.Compensated
}

func (w *worker) Work(ctx context.Context, job *river.Job[Step]) error {
	name, outcome := next(job.Args)
	if w.batched {
		if name != "" {
			_, err := w.client.Insert(ctx, Step{job.Args.Saga, name}, nil)
			return err
		}
		w.tell(job.Args.Saga, outcome)
		return nil
	}
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if name != "" {
		if _, err := w.client.InsertTx(ctx, tx, Step{job.Args.Saga, name}, nil); err != nil {
			return err
		}
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if outcome != "" {
		w.tell(job.Args.Saga, outcome)
	}
	return nil
}

func (w *worker) tell(saga int64, outcome string) {
	if ended, found := w.waiting.LoadAndDelete(saga); found {
		ended.(chan string) <- outcome
	}
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	settings, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	settings.MaxConns = 32
	pool, err := pgxpool.NewWithConfig(ctx, settings)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	steps := &worker{pool: pool, batched: os.Args[1] == "batched"}
	workers := river.NewWorkers()
	river.AddWorker(workers, steps)
	steps.client, err = river.NewClient(driver, &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 200}},
		Workers: workers,
		// The shortest that it takes: jobs are looked for again a millisecond after the last look.
		FetchCooldown:     time.Millisecond,
		FetchPollInterval: 100 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return err
	}
	if err := steps.client.Start(ctx); err != nil {
		return err
	}
	load.Serve(func(number int64) (string, error) {
		ended := make(chan string, 1)
		steps.waiting.Store(number, ended)
		if _, err := steps.client.Insert(ctx, Step{number, "reserve"}, nil); err != nil {
			return "", err
		}
		return <-ended, nil
	})
	return steps.client.Stop(ctx)
}
