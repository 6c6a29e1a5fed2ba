/* The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.
 *
 *   short RUN_FOLDER */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>
#define TOOL "{\"name\": \"shout\", \"description\": \"Say it loudly.\", \"effects\": \"none\", \"parameters\":" \
	"{\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}}}"

static void say(void *dealer, json_t *message) { /* takes the message over */
	char *text = json_dumps(message, JSON_COMPACT);
	zmq_send(dealer, text, strlen(text), 0);
	free(text), json_decref(message);
}
static json_t *run(const char *tool, const char *text) {
	char loud[256] = "";
	for (size_t at = 0; text && text[at] && at < sizeof loud - 2; at++)
		loud[at] = (char)toupper((unsigned char)text[at]), loud[at + 1] = '!';
	const char *bad = strcmp(tool, "shout") ? "unknown_tool" : *loud ? NULL : "invalid_arguments";
	return bad ? json_pack("{ss s{ss}}", "status", bad, "failure", "message", "there is only shout(text)")
		: json_pack("{ss ss}", "status", "ok", "result", loud);
}
int main(int count, char **words) {
	void *context = zmq_ctx_new(), *dealer = zmq_socket(context, ZMQ_DEALER);
	char inc[32], at[300], heard[65536];
	snprintf(inc, sizeof inc, "%x.%lx", (unsigned)getpid(), (long)time(NULL));
	snprintf(at, sizeof at, "ipc://%s/tools.workers", count > 1 ? words[1] : "var/run");
	zmq_setsockopt(dealer, ZMQ_ROUTING_ID, inc, strlen(inc));
	zmq_connect(dealer, at);
	json_t *kept = json_object(), *result, *refs; /* results that nobody has acknowledged */
	const char *key, *kind, *session, *call, *tool, *text;
	for (int places = 1, received = 0; places || json_object_size(kept);) {
		refs = json_array();
		json_object_foreach(kept, key, result) json_array_append_new(refs, json_pack("{sO sO}", "session_id",
			json_object_get(result, "session_id"), "call_id", json_object_get(result, "call_id")));
		say(dealer, json_pack("{ss ss ss si si s[o] so si si}", "kind", "hello", "name", "short", "inc", inc, "pid", getpid(),
			"capacity", 1, "tools", json_loads(TOOL, 0, NULL), "unacked", refs, "free", places, "received", received));
		while (zmq_poll(&(zmq_pollitem_t){dealer, 0, ZMQ_POLLIN, 0}, 1, 250) > 0) {
			int size = zmq_recv(dealer, heard, sizeof heard, 0);
			json_t *message = json_loadb(heard, size > (int)sizeof heard ? 0 : (size_t)size, 0, NULL);
			session = call = kind = tool = "", text = NULL;
			json_unpack(message, "{ss s?s s?s s?s s?{s?s}}", "kind", &kind, "session_id", &session, "call_id", &call, "tool",
				&tool, "args", "text", &text);
			char name[200];
			snprintf(name, sizeof name, "%s/%s", session, call);
			if (!strcmp(kind, "call") && ++received) { /* asked for again, it is not run again */
				if (!(result = json_object_get(kept, name))) {
					json_object_set_new(kept, name, result = run(tool, text));
					json_object_update_new(result, json_pack("{ss ss ss}", "kind", "result", "session_id", session, "call_id", call));
				}
				json_object_update_new(result, json_pack("{si si}", "free", places, "received", received));
				say(dealer, json_incref(result));
			} else if (!strcmp(kind, "acked"))
				json_object_del(kept, name);
			else if (!strcmp(kind, "welcome")) {
				json_object_foreach(kept, key, result) say(dealer, json_incref(result));
			} else if (!strcmp(kind, "drain"))
				places = 0;
			json_decref(message);
		}
	}
	say(dealer, json_pack("{ss}", "kind", "bye"));
	zmq_close(dealer);
	return zmq_ctx_term(context); /* once all is sent */
}
