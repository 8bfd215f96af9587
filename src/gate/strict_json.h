/* SPDX-License-Identifier: Apache-2.0 */
/*
 * strict_json: JSON that has one meaning only. json-c reads more than RFC 8259 allows (NaN, comments of a kind, numbers that are none),
 * takes the last of two members with one name and cuts names at \u0000; what a signature stands on must not be read in two
 * ways by two programs. So the text is checked first: RFC 8259's grammar, UTF-8, no \u0000, no half of a surrogate pair, no member
 * twice in an object, a bound on the depth. Any thread.
 */
#ifndef CHATSTREAM_GATE_STRICT_JSON_H
#define CHATSTREAM_GATE_STRICT_JSON_H

#include <stddef.h>

#include <json-c/json.h>

#define CS_STRICT_JSON_DEPTH 16

/* The object that is the whole text, freed with json_object_put; NULL: it is none, or there is no memory. */
json_object *cs_strict_json_object(const char *text, size_t len);
/* A member's value when it is a string, else NULL. Neither makes a difference between absent and null. */
const char *cs_strict_json_string(json_object *object, const char *name);

#endif
