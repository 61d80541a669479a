// Group is one member of a consumer group: it prints what it is assigned and what it reads as kcat
// does, and commits and leaves on SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const session = 6 * time.Second

type options struct {
	bootstrap, group, topic string
	// KIP-848.
	consumer bool
}

func main() {
	o := options{}
	client := flag.String("client", "", "franz-go or sarama")
	protocol := flag.String("protocol", "classic", "classic or consumer")
	flag.StringVar(&o.bootstrap, "bootstrap", "", "")
	flag.StringVar(&o.group, "group", "", "")
	flag.StringVar(&o.topic, "topic", "", "")
	flag.Parse()
	o.consumer = *protocol == "consumer"
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch *client {
	case "franz-go":
		err = franz(ctx, o)
	case "sarama":
		err = withSarama(ctx, o)
	default:
		err = fmt.Errorf("no client %q", *client)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func assigned(topic string, partitions []int32) {
	var each []string
	for _, p := range partitions {
		each = append(each, fmt.Sprintf("%s [%d]", topic, p))
	}
	fmt.Printf("assigned: %s\n", strings.Join(each, ", "))
}

func read(key, value []byte, header string, origin []byte) {
	fmt.Printf("%s=%s %s=%s\n", key, value, header, origin)
}
