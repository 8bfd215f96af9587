/* SPDX-License-Identifier: Apache-2.0 */
#include "text.h"

#include "loop.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

static const char ascii_words[] =
    "the river runs slowly past the old mill and every evening a heron waits where the water is shallow while "
    "somebody in the village closes the shutters counts the lamps along the road and thinks of rain ";

static const char *const utf8_words[] = {
    "é", "ü", "ß", " ", "漢", "字", "🙂", " ", "ж", "у", "к", " ", "ご", "飯", "🚀", "ñ", "€", " ", "ø", "ĳ", "𝛑", " ",
};

static void add_ascii(up_buf_t *out, uint64_t at, size_t size)
{
    size_t period = sizeof ascii_words - 1;
    size_t from = (size_t)(at % period);

    while (size > 0) {
        size_t piece = period - from < size ? period - from : size;

        up_buf_add(out, ascii_words + from, piece);
        size -= piece;
        from = 0;
    }
}

/* Whole characters as long as they fit, then dots: the size is exact and no character is torn. */
static void add_utf8(up_buf_t *out, uint64_t at, size_t size)
{
    size_t period = sizeof utf8_words / sizeof utf8_words[0];
    size_t from = (size_t)(at % period);

    for (;;) {
        const char *word = utf8_words[from];
        size_t len = strlen(word);

        if (len > size) {
            up_buf_fill(out, '.', size);
            return;
        }
        up_buf_add(out, word, len);
        size -= len;
        from = (from + 1) % period;
    }
}

static void add_stamp(up_buf_t *out)
{
    char stamp[UP_STAMP_LEN];
    uint64_t now = up_loop_clock();
    int i;

    stamp[0] = '@';
    for (i = UP_STAMP_LEN - 2; i > 0; i--) {
        stamp[i] = (char)('0' + now % 10);
        now /= 10;
    }
    stamp[UP_STAMP_LEN - 1] = '@';
    up_buf_add(out, stamp, sizeof stamp);
}

void up_text_token(up_buf_t *out, const up_params_t *p, uint64_t index)
{
    size_t size = p->size;

    if (p->stamp) {
        add_stamp(out);
        size = size > UP_STAMP_LEN ? size - UP_STAMP_LEN : 0;
    }
    if (p->utf8) {
        add_utf8(out, index * 5, size);
    }
    else {
        add_ascii(out, index * size, size);
    }
}

static char *string_of(struct json_object *value)
{
    return up_strndup(json_object_get_string(value), (size_t)json_object_get_string_len(value));
}

/* A string, or the providers' list of parts whose "text" members make up the content. */
static char *content_of(struct json_object *value)
{
    up_buf_t text = {0};
    char *result;
    size_t i;

    if (json_object_is_type(value, json_type_string)) {
        return string_of(value);
    }
    if (!json_object_is_type(value, json_type_array)) {
        return NULL;
    }
    for (i = 0; i < json_object_array_length(value); i++) {
        struct json_object *part = json_object_array_get_idx(value, i);
        struct json_object *piece;

        if (json_object_is_type(part, json_type_object) && json_object_object_get_ex(part, "text", &piece)) {
            up_buf_str(&text, json_object_get_string(piece));
        }
    }
    result = up_strndup(up_buf_data(&text), text.len);
    up_buf_free(&text);
    return result;
}

/* The content of the last of a list of messages. */
static char *last_of(struct json_object *list)
{
    size_t count;
    struct json_object *last;
    struct json_object *content;

    if (!json_object_is_type(list, json_type_array) || (count = json_object_array_length(list)) == 0) {
        return NULL;
    }
    last = json_object_array_get_idx(list, count - 1);
    if (!json_object_is_type(last, json_type_object) || !json_object_object_get_ex(last, "content", &content)) {
        return NULL;
    }
    return content_of(content);
}

static char *question_in(struct json_object *root)
{
    static const char *const names[] = {"message", "query", "messages", "input", "prompt"};
    size_t i;

    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct json_object *value;
        char *found;

        if (!json_object_object_get_ex(root, names[i], &value)) {
            continue;
        }
        found = json_object_is_type(value, json_type_string) ? string_of(value) : last_of(value);
        if (found != NULL) {
            return found;
        }
    }
    return NULL;
}

char *up_text_question(const char *body, size_t len)
{
    struct json_tokener *tokener;
    struct json_object *root;
    char *question = NULL;

    if (len == 0 || body[0] != '{') {
        return up_strndup("", 0);
    }
    tokener = json_tokener_new();
    root = tokener != NULL ? json_tokener_parse_ex(tokener, body, (int)len) : NULL;
    if (json_object_is_type(root, json_type_object)) {
        question = question_in(root);
    }
    json_object_put(root);
    if (tokener != NULL) {
        json_tokener_free(tokener);
    }
    return question != NULL ? question : up_strndup("", 0);
}

static bool blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

size_t up_text_word(const char *text, size_t len)
{
    size_t i = 0;

    while (i < len && !blank(text[i])) {
        i++;
    }
    while (i < len && blank(text[i])) {
        i++;
    }
    return i;
}

uint32_t up_text_words(const char *text)
{
    uint32_t words = 0;

    for (; *text != '\0'; text++) {
        if (!blank(*text) && (text[1] == '\0' || blank(text[1]))) {
            words++;
        }
    }
    return words;
}

void up_text_reply(up_buf_t *out, const char *question)
{
    up_buf_str(out, "Thank you for asking! I am only a simulator, so I cannot think about it, but I can say it back to "
                    "you word by word. You wrote: ");
    up_buf_str(out, *question != '\0' ? question : "nothing at all.");
}
