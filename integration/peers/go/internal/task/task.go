// Package task is what the programs of this folder share: the task, the records, the line at the end.
package task

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"sort"
	"time"
)

const (
	keys   = 10_000
	values = 1_000
)

// Task is one run.
type Task struct {
	Mode, Bootstrap, Topic, Group       string
	Records, WarmUp                     int
	Partitions, Linger                  int
	BatchBytes, BufferBytes, ValueBytes int
	keyPool, valuePool                  [][]byte
}

// Parse reads the command line and makes the records.
func Parse() *Task {
	t := &Task{}
	flag.StringVar(&t.Mode, "mode", "", "")
	flag.StringVar(&t.Bootstrap, "bootstrap", "", "")
	flag.StringVar(&t.Topic, "topic", "", "")
	flag.StringVar(&t.Group, "group", "", "")
	flag.IntVar(&t.Records, "records", 0, "")
	flag.IntVar(&t.WarmUp, "warm-up", 0, "")
	flag.IntVar(&t.Partitions, "partitions", 0, "")
	flag.IntVar(&t.Linger, "linger-ms", 0, "")
	flag.IntVar(&t.BatchBytes, "batch-bytes", 0, "")
	flag.IntVar(&t.BufferBytes, "buffer-bytes", 0, "")
	flag.IntVar(&t.ValueBytes, "value-bytes", 0, "")
	flag.Parse()
	for i := range keys {
		t.keyPool = append(t.keyPool, fmt.Appendf(nil, "key-%08d", i))
	}
	for v := range values {
		value := make([]byte, t.ValueBytes)
		for j := range value {
			value[j] = 'a' + byte((v+7*j)%26)
		}
		t.valuePool = append(t.valuePool, value)
	}
	return t
}

// Key of record i.
func (t *Task) Key(i int) []byte { return t.keyPool[i%keys] }

// Value of record i.
func (t *Task) Value(i int) []byte { return t.valuePool[i%values] }

// LingerTime is the linger as a duration.
func (t *Task) LingerTime() time.Duration { return time.Duration(t.Linger) * time.Millisecond }

// Touch looks at a record that was read.
func Touch(key, value []byte) uint64 {
	sum := uint64(len(key)) + uint64(len(value))
	if len(key) > 0 {
		sum += uint64(key[len(key)-1])
	}
	if len(value) > 0 {
		sum += uint64(value[0]) + uint64(value[len(value)-1])
	}
	return sum
}

// Line is what a program says of itself.
type Line struct {
	Version string   `json:"version"`
	Records int      `json:"records"`
	Seconds float64  `json:"seconds"`
	Sum     *uint64  `json:"sum,omitempty"`
	P50     *float64 `json:"p50_us,omitempty"`
	P99     *float64 `json:"p99_us,omitempty"`
	Note    string   `json:"note,omitempty"`
}

// Tell prints the line.
func Tell(line Line, module string) {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				line.Version = dependency.Version
			}
		}
	}
	text, err := json.Marshal(line)
	Must(err)
	fmt.Println(string(text))
}

// InputEnded waits until the bench has measured this process.
func InputEnded() {
	_, err := io.Copy(io.Discard, os.Stdin)
	Must(err)
}

// Must ends the program with an error.
func Must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// Latency sends one record at a time and fills the line in.
func (t *Task) Latency(send func(i int) error) Line {
	for i := range t.WarmUp {
		Must(send(i))
	}
	micros := make([]float64, 0, t.Records)
	started := time.Now()
	for i := range t.Records {
		sent := time.Now()
		Must(send(i))
		micros = append(micros, float64(time.Since(sent).Nanoseconds())/1e3)
	}
	seconds := time.Since(started).Seconds()
	sort.Float64s(micros)
	at := func(share float64) *float64 {
		return &micros[max(int(math.Ceil(share*float64(len(micros)))), 1)-1]
	}
	return Line{Records: t.Records, Seconds: seconds, P50: at(0.50), P99: at(0.99)}
}
