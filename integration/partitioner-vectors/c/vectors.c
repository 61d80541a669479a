/* Asks librdkafka's partitioners where each key goes. A rule that answers differently for the same
 * key is written as "random". */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int32_t (*rule_fn)(const rd_kafka_topic_t *, const void *, size_t, int32_t, void *, void *);

static const int32_t counts[] = {1, 2, 3, 7, 12, 100};

static const struct {
        const char *name;
        rule_fn ask;
} rules[] = {
    {"consistent", rd_kafka_msg_partitioner_consistent},
    {"consistent_random", rd_kafka_msg_partitioner_consistent_random},
    {"murmur2", rd_kafka_msg_partitioner_murmur2},
    {"murmur2_random", rd_kafka_msg_partitioner_murmur2_random},
    {"fnv1a", rd_kafka_msg_partitioner_fnv1a},
    {"fnv1a_random", rd_kafka_msg_partitioner_fnv1a_random},
};

int main(int argc, char **argv) {
        char line[4096];
        unsigned char key[2048];
        char errstr[512];
        FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
        rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), errstr, sizeof(errstr));
        rd_kafka_topic_t *topic = rk ? rd_kafka_topic_new(rk, "t", NULL) : NULL;
        if (!file || !topic) {
                fprintf(stderr, "usage: vectors keys.txt\n");
                return 1;
        }
        while (fgets(line, sizeof(line), file)) {
                line[strcspn(line, "\n")] = 0;
                if (line[0] == '#')
                        continue;
                const void *at = key;
                size_t len = 0;
                if (!strcmp(line, "null"))
                        at = NULL;
                else if (strcmp(line, "empty"))
                        for (; line[2 * len]; len++) {
                                unsigned byte;
                                sscanf(line + 2 * len, "%2x", &byte);
                                key[len] = (unsigned char)byte;
                        }
                for (size_t r = 0; r < sizeof(rules) / sizeof(*rules); r++) {
                        int is_random = 0;
                        int32_t first = rules[r].ask(topic, at, len, 100, NULL, NULL);
                        for (int i = 0; i < 64; i++)
                                is_random |= rules[r].ask(topic, at, len, 100, NULL, NULL) != first;
                        printf("librdkafka-%s\t%s\t%s", rd_kafka_version_str(), rules[r].name, line);
                        for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
                                if (is_random)
                                        printf("\trandom");
                                else
                                        printf("\t%d", rules[r].ask(topic, at, len, counts[c], NULL, NULL));
                        }
                        printf("\n");
                }
        }
        rd_kafka_topic_destroy(topic);
        rd_kafka_destroy(rk);
        return 0;
}
