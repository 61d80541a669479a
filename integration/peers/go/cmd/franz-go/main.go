// franz-go.
package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"ottla/peers/internal/task"
)

const module = "github.com/twmb/franz-go"

func main() {
	t := task.Parse()
	switch t.Mode {
	case "consume":
		consume(t)
		return
	case "runner":
		poll(t)
		return
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(t.Bootstrap),
		kgo.DefaultProduceTopic(t.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(t.LingerTime()),
		kgo.ProducerBatchMaxBytes(int32(t.BatchBytes)),
		kgo.MaxBufferedBytes(t.BufferBytes),
		// The bytes are the bound.
		kgo.MaxBufferedRecords(1<<20),
	)
	task.Must(err)
	ctx := context.Background()
	if t.Mode == "latency" {
		line := t.Latency(func(i int) error {
			return client.ProduceSync(ctx, &kgo.Record{Key: t.Key(i), Value: t.Value(i)}).FirstErr()
		})
		task.Tell(line, module)
	} else {
		task.Tell(produce(ctx, client, t), module)
	}
	task.InputEnded()
	client.Close()
}

func produce(ctx context.Context, client *kgo.Client, t *task.Task) task.Line {
	var written atomic.Int64
	var open sync.WaitGroup
	open.Add(t.Records)
	done := func(_ *kgo.Record, err error) {
		task.Must(err)
		written.Add(1)
		open.Done()
	}
	started := time.Now()
	for i := range t.Records {
		client.Produce(ctx, &kgo.Record{Key: t.Key(i), Value: t.Value(i)}, done)
	}
	open.Wait()
	return task.Line{Records: int(written.Load()), Seconds: time.Since(started).Seconds()}
}

func consume(t *task.Task) {
	var sum uint64
	client, line := read(t, func(record *kgo.Record) { sum += task.Touch(record.Key, record.Value) })
	line.Sum = &sum
	task.Tell(line, module)
	task.InputEnded()
	client.Close()
}

// poll is the loop without anything done to the records, and with commits.
func poll(t *task.Task) {
	nothing := func(*kgo.Record) {}
	client, line := read(t, nothing, kgo.AutoCommitInterval(100*time.Millisecond))
	task.Tell(line, module)
	task.InputEnded()
	task.Must(client.CommitUncommittedOffsets(context.Background()))
	client.Close()
}

// read reads the task's records in a group. The time counts from the first records on.
func read(t *task.Task, each func(*kgo.Record), options ...kgo.Opt) (*kgo.Client, task.Line) {
	options = append(options,
		kgo.SeedBrokers(t.Bootstrap),
		kgo.ConsumerGroup(t.Group),
		kgo.ConsumeTopics(t.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxPartitionBytes(1<<20),
	)
	client, err := kgo.NewClient(options...)
	task.Must(err)
	var first time.Time
	count := 0
	for count < t.Records {
		fetches := client.PollFetches(context.Background())
		task.Must(fetches.Err())
		if first.IsZero() {
			first = time.Now()
		}
		fetches.EachRecord(func(record *kgo.Record) {
			each(record)
			count++
		})
	}
	return client, task.Line{Records: count, Seconds: time.Since(first).Seconds()}
}
