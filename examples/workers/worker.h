/* The worker protocol for C: a program that includes this offers tools that end at once. See docs/workers.md.
 *
 * Needs libzmq and jansson. A tool gets its arguments, an object, and returns a new JSON value for the model; or NULL
 * after it has said in `why` what is wrong with them, a text that stays. It is run once for each call. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

struct tool {
	const char *name, *declaration; /* as in docs/workers.md, a JSON text */
	json_t *(*run)(const json_t *args, const char **why);
};

static void say(void *dealer, json_t *message) { /* takes the message over */
	char *text = json_dumps(message, JSON_COMPACT);
	zmq_send(dealer, text, strlen(text), 0);
	free(text), json_decref(message);
}
static json_t *run(const struct tool *tools, const char *name, const json_t *args) {
	for (; tools->name; tools++) {
		const char *why = "it says not why";
		json_t *value = strcmp(tools->name, name) ? NULL : tools->run(args, &why);
		if (value)
			return json_pack("{ss so}", "status", "ok", "result", value);
		if (!strcmp(tools->name, name))
			return json_pack("{ss s{ss}}", "status", "invalid_arguments", "failure", "message", why);
	}
	return json_pack("{ss s{ss}}", "status", "unknown_tool", "failure", "message", "no such tool here");
}
/* Offers the tools, the last of which has no name, to the pool of a run folder until that drains. */
static int serve(const char *run_folder, const char *worker, const struct tool *tools) {
	void *context = zmq_ctx_new(), *dealer = zmq_socket(context, ZMQ_DEALER);
	char inc[32], at[300];
	snprintf(inc, sizeof inc, "%x.%lx", (unsigned)getpid(), (long)time(NULL));
	snprintf(at, sizeof at, "ipc://%s/tools.workers", run_folder);
	zmq_setsockopt(dealer, ZMQ_ROUTING_ID, inc, strlen(inc));
	if (zmq_connect(dealer, at))
		return perror(at), 1;
	json_t *offered = json_array(), *kept = json_object(), *result; /* kept: what nobody has acknowledged */
	for (const struct tool *one = tools; one->name; one++)
		json_array_append_new(offered, json_loads(one->declaration, 0, NULL));
	const char *key, *kind, *session, *call, *name;
	for (int places = 1, received = 0, silent = 0; places || json_object_size(kept);) {
		json_t *refs = json_array(), *args;
		json_object_foreach(kept, key, result) json_array_append_new(refs, json_pack("{sO sO}", "session_id",
			json_object_get(result, "session_id"), "call_id", json_object_get(result, "call_id")));
		say(dealer, json_pack("{ss ss ss si si sO so si si}", "kind", "hello", "name", worker, "inc", inc, "pid", getpid(),
			"capacity", 1, "tools", offered, "unacked", refs, "free", places, "received", received));
		if (++silent == 12)
			fprintf(stderr, "nothing answers at %s: is voicebus up there? still waiting\n", at);
		while (zmq_poll(&(zmq_pollitem_t){dealer, 0, ZMQ_POLLIN, 0}, 1, 250) > 0) {
			zmq_msg_t frame;
			zmq_msg_init(&frame), silent = 0;
			zmq_msg_recv(&frame, dealer, 0);
			json_t *message = json_loadb(zmq_msg_data(&frame), zmq_msg_size(&frame), 0, NULL);
			zmq_msg_close(&frame);
			kind = session = call = name = "", args = NULL;
			json_unpack(message, "{ss s?s s?s s?s s?o}", "kind", &kind, "session_id", &session, "call_id", &call, "tool",
				&name, "args", &args);
			char named[256];
			snprintf(named, sizeof named, "%s/%s", session, call);
			if (!strcmp(kind, "call") && ++received) { /* asked for again, it is not run again */
				if (!(result = json_object_get(kept, named))) {
					json_object_set_new(kept, named, result = run(tools, name, args));
					json_object_update_new(result, json_pack("{ss ss ss}", "kind", "result", "session_id", session, "call_id", call));
				}
				json_object_update_new(result, json_pack("{si si}", "free", places, "received", received));
				say(dealer, json_incref(result));
			} else if (!strcmp(kind, "acked"))
				json_object_del(kept, named);
			else if (!strcmp(kind, "welcome")) {
				json_object_foreach(kept, key, result) say(dealer, json_incref(result));
			} else if (!strcmp(kind, "drain"))
				places = 0;
			json_decref(message);
		}
	}
	say(dealer, json_pack("{ss}", "kind", "bye"));
	json_decref(offered), json_decref(kept), zmq_close(dealer);
	return zmq_ctx_term(context); /* once all is sent */
}
