/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flag file, taken literally: a member we do not know, a value out of range or a name said twice is an error, for a typo in
 * an emergency must not silently do nothing.
 *
 *     {"enabled": true, "rollout": 25, "profiles": {"onboarding": {"rollout": 5, "enabled": false}}}
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shared.h"
#include "strict_json.h"

typedef struct {
    char *why;
    size_t size;
} parse_t;

__attribute__((format(printf, 2, 3))) static apr_status_t refuse(const parse_t *parse, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(parse->why, parse->size, format, args);
    va_end(args);
    return APR_EINVAL;
}

/* For an error message: printable and short. */
static const char *show(char out[44], const char *name)
{
    int i;

    for (i = 0; name[i] && i < 40; i++) {
        out[i] = name[i];
        if ((unsigned char)name[i] < 0x20 || (unsigned char)name[i] >= 0x7f) {
            out[i] = '?';
        }
    }
    memcpy(out + i, name[i] ? "..." : "", name[i] ? 4 : 1);
    return out;
}

/* Percent with two decimals to hundredths; -1: it is not that. k / 100.0 is the double nearest to the decimal. */
static int share_of(json_object *value)
{
    double percent;
    int share;

    if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double)) {
        return -1;
    }
    percent = json_object_get_double(value);
    if (!(percent >= 0 && percent <= 100)) {
        return -1;
    }
    share = (int)(percent * 100 + 0.5);
    return share / 100.0 == percent ? share : -1;
}

/* 1: it was one of the two that a profile and the file have; 0: it was not; -1: its value is wrong. */
static int read_flag(const parse_t *parse, const char *name, json_object *value, cs_flags_t *flags)
{
    if (!strcmp(name, "enabled")) {
        if (!json_object_is_type(value, json_type_boolean)) {
            refuse(parse, "\"enabled\" must be true or false");
            return -1;
        }
        flags->enabled = json_object_get_boolean(value);
        return 1;
    }
    if (!strcmp(name, "rollout")) {
        flags->share = share_of(value);
        if (flags->share < 0) {
            refuse(parse, "\"rollout\" must be a number from 0 to 100 with at most two decimals");
            return -1;
        }
        return 1;
    }
    return 0;
}

static void say_nothing(cs_flags_t *flags)
{
    flags->enabled = flags->share = -1;
}

static apr_status_t read_profiles(const parse_t *parse, json_object *all, flag_file_t *file)
{
    char shown[44];

    if (!json_object_is_type(all, json_type_object)) {
        return refuse(parse, "\"profiles\" must be an object");
    }
    if (json_object_object_length(all) > CS_FLAG_PROFILES) {
        return refuse(parse, "more than %d profiles", CS_FLAG_PROFILES);
    }
    json_object_object_foreach(all, profile, members) {
        size_t len = strlen(profile);

        if (!len || len > FLAG_NAME_MAX) {
            return refuse(parse, "profile \"%s\": a name has 1 to %d bytes", show(shown, profile), FLAG_NAME_MAX);
        }
        if (!json_object_is_type(members, json_type_object)) {
            return refuse(parse, "profile \"%s\" must be an object", show(shown, profile));
        }
        memcpy(file->profiles[file->count].name, profile, len + 1);
        say_nothing(&file->profiles[file->count].flags);
        json_object_object_foreach(members, name, value) {
            int known = read_flag(parse, name, value, &file->profiles[file->count].flags);

            if (known <= 0) {
                return known ? APR_EINVAL : refuse(parse, "unknown member \"%s\" of a profile", show(shown, name));
            }
        }
        file->count++;
    }
    return APR_SUCCESS;
}

static apr_status_t read_root(const parse_t *parse, json_object *root, flag_file_t *file)
{
    char shown[44];

    say_nothing(&file->general);
    file->count = 0;
    json_object_object_foreach(root, name, value) {
        int known = read_flag(parse, name, value, &file->general);

        if (known < 0) {
            return APR_EINVAL;
        }
        if (!known && strcmp(name, "profiles")) {
            return refuse(parse, "unknown member \"%s\"", show(shown, name));
        }
        if (!known) {
            apr_status_t rv = read_profiles(parse, value, file);

            if (rv) {
                return rv;
            }
        }
    }
    return APR_SUCCESS;
}

apr_status_t cs_gate_flag_file_parse(flag_file_t *file, const char *text, size_t len, char *why, size_t size)
{
    parse_t parse = {why, size};
    json_object *root;
    apr_status_t rv;

    if (len > FLAG_FILE_MAX) {
        return refuse(&parse, "larger than %d bytes", FLAG_FILE_MAX);
    }
    root = cs_strict_json_object(text, len);
    rv = root ? read_root(&parse, root, file) : refuse(&parse, "not a JSON object, or a member is there twice");
    json_object_put(root);
    return rv;
}
