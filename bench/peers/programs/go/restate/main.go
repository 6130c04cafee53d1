// Restate's customers: closed loops of HTTP calls to its ingress. Argument: the URL of the handler.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"marty/bench/load"
)

func main() {
	url := os.Args[1]
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	load.Serve(func(number int64) (string, error) {
		response, err := client.Post(url, "application/json", bytes.NewBufferString(strconv.FormatInt(number, 10)))
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return "", err
		}
		if response.StatusCode != http.StatusOK {
			return "", fmt.Errorf("HTTP %d: %s", response.StatusCode, body)
		}
		var outcome string
		err = json.Unmarshal(body, &outcome)
		return outcome, err
	})
}
