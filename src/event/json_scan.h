/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_scan: a pull scanner for JSON text (RFC 8259, the whole grammar, nothing beside it). It is here for two reasons:
 *
 * - Speed. json-c takes 600 ns for {"content":"…"}: one malloc per value and a newlocale() per parse. The dialects read
 * the
 *   usual shapes with this scanner in a tenth of that, and leave everything else to json-c.
 * - Strictness. json-c, also in its strict mode, takes 'single quotes', NaN, `1.` and raw control characters, and would
 *   pass some of them on to clients. What this scanner does not take is not JSON here.
 *
 *     cs_json_scan_t scan = {text, text + len};
 *     if (cs_json_scan_enter(&scan, '{')) {
 *         while ((more = cs_json_scan_member(&scan, &key)) > 0) { ... one call that consumes the value ... }
 *     }
 *     ok = more == 0 && cs_json_scan_end(&scan);
 *
 * After a function has said no, the scan is over. The text must be valid UTF-8.
 */
#ifndef CHATSTREAM_EVENT_JSON_SCAN_H
#define CHATSTREAM_EVENT_JSON_SCAN_H

#include <string.h>

#include "chatstream/event.h" /* cs_json_valid */

/* Nesting deeper than this is refused; json-c is set to allow it. */
#define CS_JSON_DEPTH_MAX 60

typedef struct {
    const char *at;
    const char *end;
    int started; /* the innermost open object or array has had a member */
} cs_json_scan_t;

/* The inside of a JSON string as it stands in the text. */
typedef struct {
    const char *text;
    size_t len;
    int escaped; /* holds escapes: see cs_json_unescape */
} cs_json_str_t;

/* True for an unescaped string with exactly this text. */
#define CS_JSON_STR_IS(str, literal)                                                                                   \
    ((str)->len == sizeof(literal) - 1 && memcmp((str)->text, literal, sizeof(literal) - 1) == 0)

/* Steps into an object ('{') or array ('['). */
int cs_json_scan_enter(cs_json_scan_t *scan, char open);
/* The next member's key, up to its value: 1; 0: the object ended; -1: not JSON. */
int cs_json_scan_member(cs_json_scan_t *scan, cs_json_str_t *key);
/* The next element of an array follows: 1; 0: the array ended; -1: not JSON. */
int cs_json_scan_element(cs_json_scan_t *scan);
/* The first byte of the value that follows, or NUL. */
char cs_json_scan_peek(cs_json_scan_t *scan);
int cs_json_scan_string(cs_json_scan_t *scan, cs_json_str_t *str);
int cs_json_scan_null(cs_json_scan_t *scan);
/* Steps over one value of any kind. */
int cs_json_scan_skip(cs_json_scan_t *scan);
/* Nothing but white space is left. */
int cs_json_scan_end(cs_json_scan_t *scan);

/* Appends the string's value; a lone surrogate becomes U+FFFD. */
apr_status_t cs_json_unescape(const cs_json_str_t *str, cs_buf_t *out);

#endif
