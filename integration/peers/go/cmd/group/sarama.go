package main

import (
	"context"
	"strings"

	"github.com/IBM/sarama"
)

type handler struct{ topic string }

func (h handler) Setup(s sarama.ConsumerGroupSession) error {
	assigned(h.topic, s.Claims()[h.topic])
	return nil
}

func (handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, open := <-claim.Messages():
			if !open {
				return nil
			}
			for _, h := range m.Headers {
				read(m.Key, m.Value, string(h.Key), h.Value)
			}
			s.MarkMessage(m, "")
		case <-s.Context().Done():
			return nil
		}
	}
}

func withSarama(ctx context.Context, o options) error {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Session.Timeout = session
	config.Consumer.Group.Heartbeat.Interval = session / 6
	group, err := sarama.NewConsumerGroup(strings.Split(o.bootstrap, ","), o.group, config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{o.topic}, handler{o.topic}); err != nil {
			return err
		}
	}
	return group.Close()
}
