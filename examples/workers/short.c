/* The shortest worker that keeps the protocol: its tool ends at once. See docs/workers.md.
 *
 *   short RUN_FOLDER */
#include <ctype.h>
#include "worker.h"

#define SHOUT "{\"name\": \"shout\", \"description\": \"Say it loudly.\", \"effects\": \"none\", \"parameters\":" \
	"{\"type\": \"object\", \"required\": [\"text\"], \"properties\": {\"text\": {\"type\": \"string\"}}}}"

static json_t *shout(const json_t *args, const char **why) {
	const char *text = json_string_value(json_object_get(args, "text"));
	size_t length = text ? strlen(text) : 0;
	if (!length) {
		*why = "'text' must be a text of at least one character";
		return NULL;
	}
	char *loud = malloc(length + 1);
	for (size_t at = 0; at < length; at++)
		loud[at] = (char)toupper((unsigned char)text[at]);
	loud[length] = '!';
	json_t *said = json_stringn(loud, length + 1);
	free(loud);
	return said;
}

int main(int count, char **words) {
	const struct tool tools[] = {{"shout", SHOUT, shout}, {0}};
	if (count != 2)
		return fprintf(stderr, "usage: short RUN_FOLDER\n"), 2;
	return serve(words[1], "short", tools);
}
