/* librdkafka. */

#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEYS 10000
#define VALUES 1000

static struct {
	const char *mode, *bootstrap, *topic, *group;
	const char *linger_ms, *batch_bytes;
	long records, warm_up, buffer_bytes, value_bytes;
} task;

static char keys[KEYS][16];
static char *values[VALUES];
static long delivered;

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "error: %s: %s\n", what, why);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void parse(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *flag = argv[i], *value = argv[i + 1];
		if (!strcmp(flag, "--mode"))
			task.mode = value;
		else if (!strcmp(flag, "--bootstrap"))
			task.bootstrap = value;
		else if (!strcmp(flag, "--topic"))
			task.topic = value;
		else if (!strcmp(flag, "--group"))
			task.group = value;
		else if (!strcmp(flag, "--records"))
			task.records = atol(value);
		else if (!strcmp(flag, "--warm-up"))
			task.warm_up = atol(value);
		else if (!strcmp(flag, "--linger-ms"))
			task.linger_ms = value;
		else if (!strcmp(flag, "--batch-bytes"))
			task.batch_bytes = value;
		else if (!strcmp(flag, "--buffer-bytes"))
			task.buffer_bytes = atol(value);
		else if (!strcmp(flag, "--value-bytes"))
			task.value_bytes = atol(value);
		else if (strcmp(flag, "--partitions"))
			fail("unknown flag", flag);
	}
}

static void make_records(void)
{
	for (int i = 0; i < KEYS; i++)
		snprintf(keys[i], sizeof keys[i], "key-%08d", i);
	for (int v = 0; v < VALUES; v++) {
		values[v] = malloc(task.value_bytes);
		for (long j = 0; j < task.value_bytes; j++)
			values[v][j] = 'a' + (v + 7 * j) % 26;
	}
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char why[256];
	if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK)
		fail(name, why);
}

static void set_number(rd_kafka_conf_t *conf, const char *name, long value)
{
	char text[32];
	snprintf(text, sizeof text, "%ld", value);
	set(conf, name, text);
}

static rd_kafka_t *make(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char why[256];
	set(conf, "bootstrap.servers", task.bootstrap);
	rd_kafka_t *client = rd_kafka_new(type, conf, why, sizeof why);
	if (!client)
		fail("rd_kafka_new", why);
	return client;
}

static void tell(const char *rest)
{
	printf("{\"version\":\"%s\",\"records\":%ld%s}\n", rd_kafka_version_str(), task.records, rest);
	fflush(stdout);
}

/* The client's own threads go on meanwhile. */
static void input_ended(void)
{
	char byte;
	while (read(0, &byte, 1) > 0)
		;
}

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque)
{
	(void)client;
	(void)opaque;
	if (message->err)
		fail("delivery", rd_kafka_err2str(message->err));
	delivered++;
}

static void send_one(rd_kafka_t *client, long i)
{
	for (;;) {
		rd_kafka_resp_err_t error = rd_kafka_producev(
			client, RD_KAFKA_V_TOPIC(task.topic), RD_KAFKA_V_KEY(keys[i % KEYS], 12),
			RD_KAFKA_V_VALUE(values[i % VALUES], task.value_bytes),
			RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
		if (!error)
			return;
		if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			fail("produce", rd_kafka_err2str(error));
		rd_kafka_poll(client, 100);
	}
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double nearest_rank(const double *sorted, double share)
{
	double rank = share * task.records;
	long whole = (long)rank;
	if (whole < rank)
		whole++;
	return sorted[whole > 0 ? whole - 1 : 0];
}

static void wait_for(rd_kafka_t *client, long count)
{
	while (delivered < count)
		rd_kafka_poll(client, 100);
}

static void produce(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	set(conf, "acks", "all");
	set(conf, "enable.idempotence", "true");
	set(conf, "compression.type", "none");
	set(conf, "linger.ms", task.linger_ms);
	set(conf, "batch.size", task.batch_bytes);
	set(conf, "partitioner", "murmur2_random");
	set_number(conf, "queue.buffering.max.kbytes", task.buffer_bytes >> 10);
	set_number(conf, "queue.buffering.max.messages", 1 << 20);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rd_kafka_t *client = make(RD_KAFKA_PRODUCER, conf);
	char rest[160];
	if (!strcmp(task.mode, "latency")) {
		double *micros = malloc(task.records * sizeof *micros);
		double started = 0;
		for (long i = 0; i < task.warm_up + task.records; i++) {
			double sent = now();
			if (i == task.warm_up)
				started = sent;
			send_one(client, i);
			wait_for(client, i + 1);
			if (i >= task.warm_up)
				micros[i - task.warm_up] = (now() - sent) * 1e6;
		}
		double seconds = now() - started;
		qsort(micros, task.records, sizeof *micros, by_size);
		snprintf(rest, sizeof rest, ",\"seconds\":%.6f,\"p50_us\":%.1f,\"p99_us\":%.1f", seconds,
			 nearest_rank(micros, 0.50), nearest_rank(micros, 0.99));
	} else {
		double started = now();
		for (long i = 0; i < task.records; i++) {
			send_one(client, i);
			if (i % 256 == 0)
				rd_kafka_poll(client, 0);
		}
		wait_for(client, task.records);
		snprintf(rest, sizeof rest, ",\"seconds\":%.6f", now() - started);
	}
	tell(rest);
	input_ended();
	rd_kafka_destroy(client);
}

static uint64_t touch(const rd_kafka_message_t *m)
{
	const unsigned char *key = m->key, *value = m->payload;
	uint64_t sum = m->key_len + m->len;
	if (m->key_len)
		sum += key[m->key_len - 1];
	if (m->len)
		sum += value[0] + (uint64_t)value[m->len - 1];
	return sum;
}

static void consume(void)
{
	enum { AT_ONCE = 5000 };
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	set(conf, "group.id", task.group);
	set(conf, "auto.offset.reset", "earliest");
	set(conf, "isolation.level", "read_uncommitted");
	set_number(conf, "queued.max.messages.kbytes", task.buffer_bytes >> 10);
	rd_kafka_t *client = make(RD_KAFKA_CONSUMER, conf);
	rd_kafka_poll_set_consumer(client);
	rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(topics, task.topic, RD_KAFKA_PARTITION_UA);
	rd_kafka_resp_err_t error = rd_kafka_subscribe(client, topics);
	if (error)
		fail("subscribe", rd_kafka_err2str(error));
	rd_kafka_topic_partition_list_destroy(topics);

	rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);
	static rd_kafka_message_t *messages[AT_ONCE];
	uint64_t sum = 0;
	long count = 0;
	double first = 0;
	while (count < task.records) {
		ssize_t found = rd_kafka_consume_batch_queue(queue, 500, messages, AT_ONCE);
		if (found > 0 && !count)
			first = now();
		for (ssize_t i = 0; i < found; i++) {
			if (!messages[i]->err) {
				sum += touch(messages[i]);
				count++;
			} else if (messages[i]->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
				fail("consume", rd_kafka_message_errstr(messages[i]));
			}
			rd_kafka_message_destroy(messages[i]);
		}
	}
	char rest[160];
	snprintf(rest, sizeof rest, ",\"seconds\":%.6f,\"sum\":%llu", now() - first, (unsigned long long)sum);
	tell(rest);
	input_ended();
	rd_kafka_queue_destroy(queue);
	rd_kafka_consumer_close(client);
	rd_kafka_destroy(client);
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	make_records();
	if (!strcmp(task.mode, "consume"))
		consume();
	else
		produce();
	return 0;
}
