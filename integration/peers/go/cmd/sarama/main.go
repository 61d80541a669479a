// sarama.
package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"ottla/peers/internal/task"
)

const module = "github.com/IBM/sarama"

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	return c
}

func main() {
	t := task.Parse()
	if t.Mode == "consume" {
		consume(t)
		return
	}
	c := config()
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	// What sarama wants of an idempotent producer.
	c.Net.MaxOpenRequests = 1
	c.Producer.Compression = sarama.CompressionNone
	c.Producer.Flush.Bytes = t.BatchBytes
	c.Producer.Flush.Frequency = t.LingerTime()
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	c.Producer.Partitioner = sarama.NewHashPartitioner
	if t.Mode == "latency" {
		c.Producer.Flush.Bytes = 0
		producer, err := sarama.NewSyncProducer(strings.Split(t.Bootstrap, ","), c)
		task.Must(err)
		line := t.Latency(func(i int) error {
			_, _, err := producer.SendMessage(message(t, i))
			return err
		})
		task.Tell(line, module)
		task.InputEnded()
		task.Must(producer.Close())
		return
	}
	producer, err := sarama.NewAsyncProducer(strings.Split(t.Bootstrap, ","), c)
	task.Must(err)
	line := produce(t, producer)
	line.Note = "one request in flight, as its idempotent producer wants it"
	task.Tell(line, module)
	task.InputEnded()
	task.Must(producer.Close())
}

func message(t *task.Task, i int) *sarama.ProducerMessage {
	return &sarama.ProducerMessage{
		Topic: t.Topic,
		Key:   sarama.ByteEncoder(t.Key(i)),
		Value: sarama.ByteEncoder(t.Value(i)),
	}
}

func produce(t *task.Task, producer sarama.AsyncProducer) task.Line {
	written := make(chan int)
	go func() {
		count := 0
		for count < t.Records {
			select {
			case <-producer.Successes():
				count++
			case err := <-producer.Errors():
				task.Must(err)
			}
		}
		written <- count
	}()
	started := time.Now()
	for i := range t.Records {
		producer.Input() <- message(t, i)
	}
	return task.Line{Records: <-written, Seconds: time.Since(started).Seconds()}
}

type reader struct {
	wanted int
	counts chan counted
	done   func()
}

type counted struct {
	records int
	sum     uint64
	first   time.Time
}

func (r *reader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (r *reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (r *reader) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	var local counted
	flush := func() {
		r.counts <- local
		local = counted{}
	}
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			if local.records == 0 {
				local.first = time.Now()
			}
			local.records++
			local.sum += task.Touch(message.Key, message.Value)
			session.MarkMessage(message, "")
			if local.records == 256 || message.Offset+1 == claim.HighWaterMarkOffset() {
				flush()
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func consume(t *task.Task) {
	c := config()
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	group, err := sarama.NewConsumerGroup(strings.Split(t.Bootstrap, ","), t.Group, c)
	task.Must(err)
	ctx, stop := context.WithCancel(context.Background())
	r := &reader{wanted: t.Records, counts: make(chan counted, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			err := group.Consume(ctx, []string{t.Topic}, r)
			if err != nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
				task.Must(err)
			}
		}
	}()
	var all counted
	for all.records < t.Records {
		some := <-r.counts
		if all.first.IsZero() || some.first.Before(all.first) {
			all.first = some.first
		}
		all.records += some.records
		all.sum += some.sum
	}
	seconds := time.Since(all.first).Seconds()
	task.Tell(task.Line{Records: all.records, Seconds: seconds, Sum: &all.sum}, module)
	task.InputEnded()
	stop()
	<-ended
	task.Must(group.Close())
}
