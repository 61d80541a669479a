package main

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func franz(ctx context.Context, o options) error {
	told := func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
		for topic, partitions := range parts {
			assigned(topic, partitions)
		}
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(o.bootstrap, ",")...),
		kgo.ConsumerGroup(o.group),
		kgo.ConsumeTopics(o.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(session / 6),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(told),
	}
	if o.consumer {
		// The broker assigns with what stands for this one.
		opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				read(r.Key, r.Value, h.Key, h.Value)
			}
		})
	}
	ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = client.CommitUncommittedOffsets(ending)
	client.CloseAllowingRebalance()
	return err
}
