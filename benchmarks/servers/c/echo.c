/* Sends back what comes, in C on libzmq: what the library itself costs. Usage: echo rep|router */
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { MOST_FRAMES = 16 };

static int failed(void) {
    fprintf(stderr, "%s\n", zmq_strerror(zmq_errno()));
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2 || (strcmp(argv[1], "rep") && strcmp(argv[1], "router"))) {
        fprintf(stderr, "usage: %s rep|router\n", argv[0]);
        return 2;
    }
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, strcmp(argv[1], "rep") ? ZMQ_ROUTER : ZMQ_REP);
    char endpoint[256];
    size_t length = sizeof endpoint;
    int no_limit = 0;
    if (!socket || zmq_setsockopt(socket, ZMQ_SNDHWM, &no_limit, sizeof no_limit) != 0 ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &no_limit, sizeof no_limit) != 0 ||
        zmq_bind(socket, "tcp://127.0.0.1:*") != 0 ||
        zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &length) != 0) {
        return failed();
    }
    printf("%s\n", endpoint);
    fflush(stdout);

    zmq_msg_t frames[MOST_FRAMES];
    for (;;) {
        int count = 0, more = 1;
        while (more && count < MOST_FRAMES) { /* all of them first, as REP wants it */
            zmq_msg_init(&frames[count]);
            if (zmq_msg_recv(&frames[count], socket, 0) < 0)
                return failed();
            more = zmq_msg_more(&frames[count++]);
        }
        for (int at = 0; at < count; at++)
            if (zmq_msg_send(&frames[at], socket, at + 1 < count ? ZMQ_SNDMORE : 0) < 0)
                return failed();
    }
}
