// The service behind the steps over HTTP, as little as a service can be: it refuses the ship of every twentieth order. Argument: the port.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"marty/bench/load"
)

type call struct {
	Step    string `json:"step"`
	Context struct {
		Order int64 `json:"order"`
	} `json:"context"`
}

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		var asked call
		if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		answer.Header().Set("Content-Type", "application/json")
		if request.URL.Path == "/ship" && asked.Context.Order%load.RefusedEach == 0 {
			answer.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		fmt.Fprintf(answer, `{"%s":%d}`, asked.Step, asked.Context.Order)
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
