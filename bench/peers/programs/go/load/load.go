// Package load drives a contender as ../../load.py describes: orders on standard input, answers on standard output.
package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// RefusedEach: every so many sagas are refused at their third step and compensate.
const (
	RefusedEach = 20
	Completed   = "completed"
	Compensated = "compensated"
)

type order struct {
	WarmUp      float64 `json:"warm_up"`
	Seconds     float64 `json:"seconds"`
	Count       int64   `json:"count"`
	Concurrency int     `json:"concurrency"`
}

type answer struct {
	Sagas    int              `json:"sagas"`
	Seconds  float64          `json:"seconds"`
	P50      float64          `json:"p50_ms"`
	P99      float64          `json:"p99_ms"`
	Max      float64          `json:"max_ms"`
	Outcomes map[string]int64 `json:"outcomes"`
}

// Serve does orders (closed loops only) until standard input ends. one runs the saga with a number to its durable end.
func Serve(one func(int64) (string, error)) {
	say(map[string]string{"mark": "ready"})
	loop := &closed{one: one}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var asked order
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil || asked.Concurrency == 0 {
			fatal(fmt.Errorf("no order: %s", lines.Text()))
		}
		say(loop.run(asked))
	}
}

type closed struct {
	one func(int64) (string, error)
	// The next saga's number, and the first that is not run any more.
	next, last atomic.Int64
	lock       sync.Mutex
	latencies  []float64
	outcomes   map[string]int64
}

func (c *closed) run(asked order) answer {
	c.outcomes = map[string]int64{}
	c.taken()
	c.last.Store(math.MaxInt64)
	if asked.Count > 0 {
		c.last.Store(c.next.Load() + asked.Count)
	}
	began := time.Now()
	var all sync.WaitGroup
	for range asked.Concurrency {
		all.Add(1)
		go func() {
			defer all.Done()
			c.customer()
		}()
	}
	if asked.Count > 0 {
		all.Wait()
		return c.answer(time.Since(began), c.taken())
	}
	time.Sleep(span(asked.WarmUp))
	say(map[string]string{"mark": "begun"})
	began = time.Now()
	c.taken()
	time.Sleep(span(asked.Seconds))
	took, measured := time.Since(began), c.taken()
	say(map[string]string{"mark": "over"})
	c.last.Store(0)
	all.Wait()
	return c.answer(took, measured)
}

func (c *closed) customer() {
	for {
		number := c.next.Load()
		if number >= c.last.Load() {
			return
		}
		if !c.next.CompareAndSwap(number, number+1) {
			continue
		}
		started := time.Now()
		outcome, err := c.one(number)
		if err != nil {
			fatal(err)
		}
		took := time.Since(started).Seconds() * 1000
		c.lock.Lock()
		c.latencies = append(c.latencies, took)
		c.outcomes[outcome]++
		c.lock.Unlock()
	}
}

// taken gives the latencies since the last time.
func (c *closed) taken() []float64 {
	c.lock.Lock()
	defer c.lock.Unlock()
	found := c.latencies
	c.latencies = nil
	return found
}

func (c *closed) answer(took time.Duration, latencies []float64) answer {
	sort.Float64s(latencies)
	at := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return latencies[min(len(latencies)-1, int(float64(len(latencies))*share))]
	}
	return answer{len(latencies), took.Seconds(), at(0.5), at(0.99), at(1), c.outcomes}
}

func span(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

func say(line any) {
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
