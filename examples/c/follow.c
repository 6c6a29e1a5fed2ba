/* Follow one session from C: libzmq, jansson for JSON, and docs/protocol.md.
 *
 *   follow RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static const char *session;
static void *events, *commands;
static json_int_t last;   /* everything up to here was shown */
static json_int_t newest; /* known to exist */
static json_int_t lose;   /* to be dropped once, as a full queue would */
static json_t *incs;      /* the publisher's incarnations heard so far: a set */
static int again;         /* how many had to be asked for */
static char request[64];  /* the id of the replay under way, or "" */
static bool over;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

/* Ask for a page of what is missing; again with the same id while no answer comes. */
static void ask(bool same_id) {
    static int count;
    if (!same_id)
        snprintf(request, sizeof request, "c-%ld-%ld-%d", (long)getpid(), (long)time(NULL), ++count);
    json_t *command = json_pack("{s:i s:s s:s s:s s:{s:I s:i}}", "v", 1, "id", request, "command",
                                "replay", "session_id", session, "data", "from", last + 1, "limit", 200);
    char *text = json_dumps(command, JSON_COMPACT);
    zmq_send(commands, text, strlen(text), ZMQ_DONTWAIT);
    free(text);
    json_decref(command);
}

/* What is said, and the end. */
static void show(const char *kind, json_t *data) {
    const char *text = json_string_value(json_object_get(data, "text"));
    if (strcmp(kind, "user_transcript") == 0)
        printf("caller: %s\n", text);
    else if (strcmp(kind, "assistant_transcript") == 0 || strcmp(kind, "assistant_text") == 0)
        printf("assistant: %s\n", text);
    else if (strcmp(kind, "session_closed") == 0) {
        over = true;
        printf("complete: %lld events, %d of them asked for again\n", (long long)last, again);
    }
}

static void exists(json_int_t seq) {
    if (seq > newest)
        newest = seq;
}

/* The publisher says how far it is. */
static void hear(json_int_t head, bool is_new) {
    /* It has just come: the one before lost its journal, and what follows is new under numbers
     * used before. */
    if (is_new && head > 0 && head < last)
        last = newest = head;
    exists(head);
}

/* Is something missing? Asked for page by page. */
static void look(bool anyway) {
    if ((anyway || newest > last) && !request[0] && !over) {
        if (newest > last && last)
            printf("events %lld to %lld are missing: asking for them\n", (long long)last + 1,
                   (long long)newest);
        ask(false);
    }
}

/* An event, live or again. */
static void came(json_t *event, bool live) {
    const char *kind = json_string_value(json_object_get(event, "kind"));
    json_t *data = json_object_get(event, "data");
    json_t *number = json_object_get(event, "seq");
    const char *inc = json_string_value(json_object_get(event, "inc"));
    if (!kind || !inc)
        return;
    bool is_new = !json_object_get(incs, inc), welcome = strcmp(kind, "welcome") == 0;
    json_object_set_new(incs, inc, json_true());
    if (welcome) { /* our subscription is active from here on */
        printf("following %s\n", session);
        hear(json_integer_value(json_object_get(json_object_get(data, "heads"), session)), is_new);
    } else if (strcmp(kind, "head") == 0) { /* each second: shows a lost tail */
        hear(json_integer_value(json_object_get(data, "seq")), is_new);
    } else if (!json_is_integer(number)) {
        return;
    } else {
        json_int_t seq = json_integer_value(number);
        if (live && seq == lose) {
            lose = 0;
            return;
        }
        exists(seq);
        if (seq == last + 1) { /* else a repetition, or something before it is missing */
            last = seq;
            again += !live;
            show(kind, data);
        }
    }
    /* A welcome tells of live sessions only: one that is over has its events all the same. */
    if (live)
        look(welcome);
}

/* The owner of the events has answered. */
static void answered(json_t *reply) {
    const char *id = json_string_value(json_object_get(reply, "id"));
    if (!id || strcmp(id, request) != 0)
        return; /* the answer to a repetition */
    request[0] = 0;
    if (json_is_true(json_object_get(reply, "ok"))) {
        size_t index;
        json_t *event, *data = json_object_get(reply, "data");
        json_array_foreach(json_object_get(data, "events"), index, event)
            came(event, false);
        hear(json_integer_value(json_object_get(data, "next")), false);
        look(false);
        return;
    }
    json_t *error = json_object_get(reply, "error");
    if (json_is_true(json_object_get(error, "retry"))) {
        ask(false);
        return;
    }
    fprintf(stderr, "the session says: %s\n", json_string_value(json_object_get(error, "message")));
    exit(1);
}

/* The JSON frame of a multipart message: the second of an event, the first of a reply. */
static json_t *receive(void *socket, int wanted) {
    json_t *found = NULL;
    int more = 1;
    for (int index = 0; more; index++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, socket, 0) < 0)
            fail("receive");
        if (index == wanted)
            found = json_loadb(zmq_msg_data(&frame), zmq_msg_size(&frame), 0, NULL);
        more = zmq_msg_more(&frame);
        zmq_msg_close(&frame);
    }
    return found;
}

int main(int count, char **words) {
    if (count < 3) {
        fprintf(stderr, "usage: follow RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]\n");
        return 2;
    }
    session = words[2];
    lose = count > 3 ? atoll(words[3]) : 0;
    int home = atoi(session + 1), zero = 0;
    char text[256];
    setvbuf(stdout, NULL, _IOLBF, 0);
    incs = json_object();

    void *context = zmq_ctx_new();
    events = zmq_socket(context, ZMQ_SUB);
    zmq_setsockopt(events, ZMQ_SNDHWM, &zero, sizeof zero); /* subscriptions are messages, too */
    snprintf(text, sizeof text, "event/%s/", session);
    zmq_setsockopt(events, ZMQ_SUBSCRIBE, text, strlen(text)); /* before connecting */
    snprintf(text, sizeof text, "ipc://%s/session-%d.events", words[1], home);
    if (zmq_connect(events, text))
        fail(text);
    commands = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(commands, ZMQ_LINGER, &zero, sizeof zero);
    snprintf(text, sizeof text, "ipc://%s/session-%d.commands", words[1], home);
    if (zmq_connect(commands, text))
        fail(text);

    for (int silent = 0; !over;) {
        zmq_pollitem_t ready[] = {{events, 0, ZMQ_POLLIN, 0}, {commands, 0, ZMQ_POLLIN, 0}};
        if (zmq_poll(ready, 2, 500) < 0)
            fail("poll");
        silent = ready[0].revents || ready[1].revents ? 0 : silent + 1;
        if (silent == 6) /* three seconds, and a session process says something each second */
            fprintf(stderr,
                    "nothing answers at ipc://%s/session-%d.events: is voicebus up, and is that its run folder? "
                    "still waiting\n",
                    words[1], home);
        json_t *message = NULL;
        if (ready[0].revents && (message = receive(events, 1)))
            came(message, true);
        json_decref(message);
        message = NULL;
        if (ready[1].revents && (message = receive(commands, 0)))
            answered(message);
        json_decref(message);
        if (!ready[0].revents && !ready[1].revents && request[0])
            ask(true);
    }
    zmq_close(events);
    zmq_close(commands);
    zmq_ctx_term(context);
    json_decref(incs);
    return 0;
}
