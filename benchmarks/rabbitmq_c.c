/* The C client of the benchmarks: rabbitmq_c ACTION HOST PORT QUEUE COUNT WARMUP SIZE; prints a measure as JSON.
 * The scenarios are those of styles/synchronous.py. */
#if defined(__has_include) && __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define PREFETCH 1000

static amqp_connection_state_t connection;
static amqp_bytes_t queue;
static long count, warmup, size;
static double cpu_at, wall_at, used, took;
static long memory_at;

static void fail(const char *what) {
    fprintf(stderr, "rabbitmq-c: %s failed\n", what);
    exit(1);
}

static void check_reply(const char *what) {
    if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double wall(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* Bytes; see peak_memory in meter.py. */
static long peak_memory(void) {
    struct rusage usage;
    char line[256];
    long kilobytes = -1;
    FILE *status = fopen("/proc/self/status", "r");
    if (status) {
        while (fgets(line, sizeof line, status))
            if (sscanf(line, "VmHWM: %ld", &kilobytes) == 1) break;
        fclose(status);
    }
    if (kilobytes < 0) {
        getrusage(RUSAGE_SELF, &usage);
        kilobytes = usage.ru_maxrss;
    }
    return kilobytes * 1024;
}

static void start(void) {
    wall_at = wall();
    cpu_at = cpu();
}

static void stop(void) {
    used = cpu() - cpu_at;
    took = wall() - wall_at;
}

static void declare(void) {
    if (!amqp_queue_declare(connection, 1, queue, 1, 0, 0, 0, amqp_empty_table)) fail("queue.declare");
    amqp_maybe_release_buffers(connection);
}

static void get(void) {
    amqp_rpc_reply_t reply = amqp_basic_get(connection, 1, queue, 1);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL || reply.reply.id != AMQP_BASIC_GET_EMPTY_METHOD) fail("basic.get");
    amqp_maybe_release_buffers(connection);
}

static void publish(void) {
    amqp_bytes_t body = {(size_t)size, malloc(size + 1)};
    long n;
    memset(body.bytes, 'x', size);
    for (n = 0; n < warmup + count; n++) {
        if (n == warmup) {
            declare();
            start();
        }
        if (amqp_basic_publish(connection, 1, amqp_empty_bytes, queue, 0, 0, NULL, body) != AMQP_STATUS_OK)
            fail("basic.publish");
    }
    declare();
    stop();
    free(body.bytes);
}

static void consume(int no_ack) {
    amqp_basic_consume_ok_t *ok;
    amqp_envelope_t envelope;
    char tag[256];
    long n;
    if (!no_ack && !amqp_basic_qos(connection, 1, 0, PREFETCH, 0)) fail("basic.qos");
    if (!warmup) start();
    ok = amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, no_ack, 0, amqp_empty_table);
    if (!ok || ok->consumer_tag.len >= sizeof tag) fail("basic.consume");
    memcpy(tag, ok->consumer_tag.bytes, ok->consumer_tag.len);
    amqp_bytes_t consumer = {ok->consumer_tag.len, tag};
    for (n = 1; n <= warmup + count; n++) {
        amqp_maybe_release_buffers(connection);
        if (amqp_consume_message(connection, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) fail("consuming");
        if (!no_ack && amqp_basic_ack(connection, 1, envelope.delivery_tag, 0)) fail("basic.ack");
        amqp_destroy_envelope(&envelope);
        if (n == warmup) start();
    }
    if (!amqp_basic_cancel(connection, 1, consumer)) fail("basic.cancel");
    stop();
}

static void repeat(void (*call)(void)) {
    long n;
    for (n = 0; n < warmup + count; n++) {
        if (n == warmup) start();
        call();
    }
    stop();
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "version")) {
        puts(amqp_version());
        return 0;
    }
    if (argc != 8) fail("reading the arguments");
    const char *action = argv[1];
    queue = amqp_cstring_bytes(argv[4]);
    count = atol(argv[5]);
    warmup = atol(argv[6]);
    size = atol(argv[7]);
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket || amqp_socket_open(socket, argv[2], atoi(argv[3]))) fail("connecting");
    if (amqp_login(connection, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type !=
        AMQP_RESPONSE_NORMAL)
        fail("login");
    amqp_channel_open(connection, 1);
    check_reply("channel.open");
    memory_at = peak_memory();
    if (!strcmp(action, "publish")) publish();
    else if (!strcmp(action, "consume")) consume(1);
    else if (!strcmp(action, "consume_ack")) consume(0);
    else if (!strcmp(action, "declare")) repeat(declare);
    else if (!strcmp(action, "get")) repeat(get);
    else fail(action);
    printf("{\"count\": %ld, \"cpu\": %.6f, \"wall\": %.6f, \"memory\": %ld}\n", count, used, took,
           peak_memory() - memory_at);
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
    return 0;
}
