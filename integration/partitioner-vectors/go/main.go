// Asks sarama's partitioners where each key goes. A rule that answers differently for the same key
// is written as "random".
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/IBM/sarama"
)

var counts = []int32{1, 2, 3, 7, 12, 100}

var rules = []struct {
	name string
	make sarama.PartitionerConstructor
}{
	{"hash", sarama.NewHashPartitioner},
	{"reference_hash", sarama.NewReferenceHashPartitioner},
	{"crc_hash", sarama.NewConsistentCRCHashPartitioner},
	{"murmur2_random", sarama.NewMurmur2Partitioner},
}

func main() {
	file, err := os.Open(os.Args[1])
	check(err)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		var key sarama.Encoder
		switch line {
		case "null":
		case "empty":
			key = sarama.ByteEncoder([]byte{})
		default:
			bytes, err := hex.DecodeString(line)
			check(err)
			key = sarama.ByteEncoder(bytes)
		}
		for _, rule := range rules {
			fmt.Println(row(rule.name, rule.make("t"), line, key))
		}
	}
	check(lines.Err())
}

func row(name string, p sarama.Partitioner, line string, key sarama.Encoder) string {
	random := false
	for i := 0; i < 64 && !random; i++ {
		random = ask(p, key, 100) != ask(p, key, 100)
	}
	fields := []string{"sarama-1.61.1", name, line}
	for _, count := range counts {
		if random {
			fields = append(fields, "random")
		} else {
			fields = append(fields, fmt.Sprint(ask(p, key, count)))
		}
	}
	return strings.Join(fields, "\t")
}

func ask(p sarama.Partitioner, key sarama.Encoder, count int32) int32 {
	chosen, err := p.Partition(&sarama.ProducerMessage{Topic: "t", Key: key}, count)
	check(err)
	return chosen
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
