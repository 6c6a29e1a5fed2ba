/* A worker in C: offers `shout`, one call at a time. Needs libzmq, jansson and docs/workers.md.
 *
 *   worker RUN_FOLDER */
#include <ctype.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define TOOL "{\"name\": \"shout\", \"description\": \"Say it loudly, after some seconds.\", \"effects\": \"none\"," \
	"\"parameters\": {\"type\": \"object\", \"required\": [\"text\"], \"properties\": {\"text\": {\"type\": \"string\"}," \
	"\"times\": {\"type\": \"integer\"}, \"seconds\": {\"type\": \"number\"}}}}"
#define LONGEST (256 * 1024)

static void *dealer;
static char inc[9];
static json_t *running, *unacked, *cancelled; /* "session/call" -> call, result, reason */
static json_int_t received;
static bool welcome, draining;
static double done_at, ends_at;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
static void say(json_t *message) { /* takes the message over */
	char *text = json_dumps(message, JSON_COMPACT);
	zmq_send(dealer, text, strlen(text), ZMQ_DONTWAIT);
	free(text);
	json_decref(message);
}
static json_t *refs(json_t *calls) {
	json_t *found = json_array(), *call;
	const char *key;
	json_object_foreach(calls, key, call)
		json_array_append_new(found, json_pack("{sOsO}", "session_id", json_object_get(call, "session_id"),
			"call_id", json_object_get(call, "call_id")));
	return found;
}
static void tell(const char *kind, json_t *call, const char *text) { /* started or progress */
	say(json_pack("{ss sO sO ss*}", "kind", kind, "session_id", json_object_get(call, "session_id"),
		"call_id", json_object_get(call, "call_id"), "text", text));
}
static void hello(void) {
	say(json_pack("{ss ss ss si si s[o] so so sI}", "kind", "hello", "name", "c-shouter", "inc", inc, "pid", getpid(),
		"capacity", 1, "tools", json_loads(TOOL, 0, NULL), "running", refs(running), "unacked", refs(unacked),
		"received", received));
}
static void credit(void) {
	int free_places = draining || json_object_size(running) ? 0 : 1;
	say(json_pack("{ss si sI}", "kind", "credit", "free", free_places, "received", received));
}
static void finish(const char *key, json_t *call, const char *status, const char *words, bool started) {
	json_t *result = json_pack("{ss ss sO sO sb}", "kind", "result", "status", status,
		"session_id", json_object_get(call, "session_id"), "call_id", json_object_get(call, "call_id"), "started", started);
	if (!strcmp(status, "ok"))
		json_object_set_new(result, "result", json_string(words));
	else
		json_object_set_new(result, "failure", json_pack("{ss}", "message", words));
	json_object_set_new(unacked, key, result); /* kept until it is acknowledged */
	say(json_incref(result));
	json_object_del(running, key);
	credit();
}
static void begin(const char *key, json_t *call) {
	json_t *args = json_object_get(call, "args"), *seconds = json_object_get(args, "seconds");
	if (json_object_get(unacked, key)) /* asked for again: never run twice */
		say(json_incref(json_object_get(unacked, key)));
	else if (json_object_get(running, key))
		tell("started", call, NULL);
	else if (json_object_get(cancelled, key))
		finish(key, call, "cancelled", "cancelled before it began", false);
	else if (strcmp(json_string_value(json_object_get(call, "tool")), "shout"))
		finish(key, call, "unknown_tool", "there is only shout here", false);
	else if (!json_is_string(json_object_get(args, "text")))
		finish(key, call, "invalid_arguments", "'text' must be a text", false);
	else {
		tell("started", call, NULL);
		tell("progress", call, "taking a deep breath");
		json_object_set(running, key, call);
		done_at = now() + (seconds ? json_number_value(seconds) : 0);
		ends_at = now() + (double)json_integer_value(json_object_get(call, "budget_ms")) / 1000;
	}
}
static void shout(const char *key, json_t *call) {
	json_t *args = json_object_get(call, "args"), *times = json_object_get(args, "times");
	const char *text = json_string_value(json_object_get(args, "text"));
	size_t length = strlen(text) + 1, count = times ? (size_t)json_integer_value(times) : 1;
	if (length == 1 || length * count > LONGEST) {
		finish(key, call, "error", length == 1 ? "no text" : "the result would be longer than 262144 bytes", true);
		return;
	}
	char *loud = malloc(length * count + 1), *end = loud;
	for (size_t i = 0; i < length * count; i++)
		*end++ = i % length == length - 1 ? '!' : (char)toupper((unsigned char)text[i % length]);
	*end = 0;
	finish(key, call, "ok", loud, true);
	free(loud);
}
static void hear(json_t *message) {
	const char *kind = json_string_value(json_object_get(message, "kind")), *unused;
	const char *session = json_string_value(json_object_get(message, "session_id"));
	const char *id = json_string_value(json_object_get(message, "call_id"));
	char key[256];
	json_t *result;
	snprintf(key, sizeof key, "%s/%s", session ? session : "", id ? id : "");
	if (!strcmp(kind, "welcome")) {
		welcome = true;
		credit();
		json_object_foreach(unacked, unused, result) say(json_incref(result));
	} else if (!strcmp(kind, "call")) {
		received++;
		begin(key, message);
	} else if (!strcmp(kind, "cancel")) {
		if (json_object_size(cancelled) >= 256)
			json_object_clear(cancelled);
		json_object_set_new(cancelled, key, json_true()); /* it may come before its call */
		if (json_object_get(running, key))
			finish(key, message, "cancelled", "cancelled", true);
	} else if (!strcmp(kind, "acked"))
		json_object_del(unacked, key);
	else if (!strcmp(kind, "reset"))
		hello();
	else if (!strcmp(kind, "drain")) {
		draining = true;
		credit();
	}
}
int main(int count, char **words) {
	if (count < 2)
		return fprintf(stderr, "usage: worker RUN_FOLDER\n"), 2;
	char endpoint[256], name[64];
	unsigned random = 0;
	FILE *source = fopen("/dev/urandom", "rb");
	if (!source || fread(&random, sizeof random, 1, source) != 1)
		return 1;
	fclose(source);
	snprintf(inc, sizeof inc, "%08x", random);
	snprintf(name, sizeof name, "c-shouter.%s", inc);
	snprintf(endpoint, sizeof endpoint, "ipc://%s/tools.workers", words[1]);
	running = json_object(), unacked = json_object(), cancelled = json_object();
	void *context = zmq_ctx_new();
	dealer = zmq_socket(context, ZMQ_DEALER);
	zmq_setsockopt(dealer, ZMQ_ROUTING_ID, name, strlen(name));
	zmq_connect(dealer, endpoint);
	double heard_at = 0, said_at = 0;
	int unanswered = 0;
	while (!draining || json_object_size(running) || json_object_size(unacked)) {
		zmq_pollitem_t item = {dealer, 0, ZMQ_POLLIN, 0};
		while (zmq_poll(&item, 1, 20) > 0) {
			zmq_msg_t frame;
			zmq_msg_init(&frame);
			zmq_msg_recv(&frame, dealer, 0);
			json_t *message = json_loadb(zmq_msg_data(&frame), zmq_msg_size(&frame), 0, NULL);
			heard_at = now();
			if (message)
				hear(message);
			json_decref(message);
			zmq_msg_close(&frame);
		}
		const char *key;
		json_t *call;
		void *next;
		json_object_foreach_safe(running, next, key, call) {
			if (now() >= ends_at)
				finish(key, call, "timeout", "its time was up", true);
			else if (now() >= done_at)
				shout(key, call);
		}
		welcome = welcome && now() - heard_at < 2;
		if (now() - said_at >= (welcome ? 0.25 : 0.5)) {
			said_at = now();
			unanswered = welcome ? 0 : unanswered + 1;
			if (unanswered == 6)
				fprintf(stderr, "nothing answers at %s: is voicebus up there? still waiting\n", endpoint);
			if (welcome)
				say(json_pack("{ss so}", "kind", "heartbeat", "running", refs(running)));
			else
				hello();
		}
	}
	say(json_pack("{ss}", "kind", "bye"));
	zmq_close(dealer);
	zmq_ctx_term(context);
}
