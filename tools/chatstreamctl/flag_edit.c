/* SPDX-License-Identifier: Apache-2.0 */
#include "flag_edit.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl.h"
#include "gate/shared.h"

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static int lock_directory(flag_edit_t *edit)
{
    char *copy = strdup(edit->path);

    edit->dir = copy != NULL ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(copy);
    if (edit->dir < 0 || flock(edit->dir, LOCK_EX) != 0) {
        return ctl_complain("%s: %s", edit->path, strerror(errno));
    }
    return CTL_OK;
}

/* As the server reads it, so that nothing is kept here that it refuses. */
static int check(const char *path, const char *text, size_t len)
{
    flag_file_t *file = calloc(1, sizeof(*file));
    char why[200] = "out of memory";
    int is_good = file != NULL && cs_gate_flag_file_parse(file, text, len, why, sizeof(why)) == APR_SUCCESS;

    free(file);
    return is_good ? CTL_OK : ctl_complain("%s: %s", path, why);
}

static int read_file(flag_edit_t *edit)
{
    static char text[FLAG_FILE_MAX + 1];
    int fd = open(edit->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t len = 0;
    ssize_t got = 1;
    int rc;

    if (fd < 0 && errno == ENOENT) {
        edit->root = json_object_new_object();
        return edit->root != NULL ? CTL_OK : ctl_complain("out of memory");
    }
    while (fd >= 0 && got > 0 && len < sizeof(text)) {
        got = read(fd, text + len, sizeof(text) - len);
        len += got > 0 ? (size_t)got : 0;
    }
    if (fd < 0 || got < 0) {
        rc = ctl_complain("%s: %s", edit->path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    close(fd);
    rc = check(edit->path, text, len);
    if (rc == CTL_OK) {
        struct json_tokener *tokener = json_tokener_new();

        edit->root = tokener != NULL ? json_tokener_parse_ex(tokener, text, (int)len) : NULL;
        json_tokener_free(tokener);
        edit->is_there = 1;
        rc = edit->root != NULL ? CTL_OK : ctl_complain("%s: not JSON", edit->path);
    }
    return rc;
}

int flag_edit_open(flag_edit_t *edit, const char *path)
{
    int rc;

    memset(edit, 0, sizeof(*edit));
    edit->path = path;
    edit->dir = -1;
    rc = lock_directory(edit);
    return rc == CTL_OK ? read_file(edit) : rc;
}

void flag_edit_close(flag_edit_t *edit)
{
    json_object_put(edit->root);
    edit->root = NULL;
    if (edit->dir >= 0) {
        close(edit->dir);
        edit->dir = -1;
    }
}

/* ---- changing ------------------------------------------------------------------------------------------------------- */

static struct json_object *member_of(struct json_object *parent, const char *name)
{
    struct json_object *member;

    if (!json_object_object_get_ex(parent, name, &member)) {
        member = json_object_new_object();
        json_object_object_add(parent, name, member);
    }
    return member;
}

/* "25", "12.5", "0.05": as it was written, for 12.1 is not a double. */
static struct json_object *percent(const char *text)
{
    size_t whole = strspn(text, "0123456789");
    size_t part = text[whole] == '.' ? strspn(text + whole + 1, "0123456789") : 0;

    if (whole == 0 || whole > 3 || (whole > 1 && text[0] == '0') || part > 2
        || text[whole + (part > 0 ? part + 1 : 0)] != '\0' || atof(text) > 100) {
        return NULL;
    }
    return part > 0 ? json_object_new_double_s(atof(text), text) : json_object_new_int(atoi(text));
}

static struct json_object *value_of(const char *name, const char *value)
{
    if (strcmp(name, "enabled") != 0) {
        return percent(value);
    }
    if (strcmp(value, "on") == 0 || strcmp(value, "true") == 0) {
        return json_object_new_boolean(1);
    }
    return strcmp(value, "off") == 0 || strcmp(value, "false") == 0 ? json_object_new_boolean(0) : NULL;
}

/* A profile of which nothing is said any more goes. */
static void tidy(struct json_object *root, struct json_object *profiles, const char *profile,
                 struct json_object *target)
{
    if (json_object_object_length(target) == 0) {
        json_object_object_del(profiles, profile);
    }
    if (json_object_object_length(profiles) == 0) {
        json_object_object_del(root, "profiles");
    }
}

int flag_edit_set(flag_edit_t *edit, const char *profile, const char *name, const char *value)
{
    struct json_object *profiles = profile != NULL ? member_of(edit->root, "profiles") : NULL;
    struct json_object *target = profile != NULL ? member_of(profiles, profile) : edit->root;
    struct json_object *number;

    if (*value == '\0') {
        json_object_object_del(target, name);
    }
    else {
        number = value_of(name, value);
        if (number == NULL) {
            return ctl_misused(strcmp(name, "enabled") == 0
                                   ? "enabled=%s: on, off or nothing"
                                   : "rollout=%s: a number from 0 to 100 with at most two decimals, or nothing",
                               value);
        }
        json_object_object_add(target, name, number);
    }
    if (profile != NULL) {
        tidy(edit->root, profiles, profile, target);
    }
    return CTL_OK;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

/* Mode and owner of the file it replaces; a new one may be read by the server, whose children run as somebody else. */
static int keep_mode(const flag_edit_t *edit, int fd)
{
    struct stat info;

    if (stat(edit->path, &info) != 0) {
        return errno == ENOENT && fchmod(fd, 0644) == 0;
    }
    if ((info.st_uid != geteuid() || info.st_gid != getegid()) && fchown(fd, info.st_uid, info.st_gid) != 0) {
        return 0;
    }
    return fchmod(fd, info.st_mode & 07777) == 0;
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t done = write(fd, text, len);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return 0;
        }
        text += done;
        len -= (size_t)done;
    }
    return 1;
}

/* What a symbolic link names is replaced, not the link. */
static int replace(flag_edit_t *edit, const char *text, size_t len)
{
    char *real = edit->is_there ? realpath(edit->path, NULL) : strdup(edit->path);
    size_t size = real != NULL ? strlen(real) + 16 : 0;
    char *temporary = real != NULL ? malloc(size) : NULL;
    int rc = CTL_OK;
    int fd = -1;

    if (temporary != NULL) {
        snprintf(temporary, size, "%s.XXXXXX", real);
        fd = mkostemp(temporary, O_CLOEXEC);
    }
    if (fd < 0) {
        rc = ctl_complain("%s: %s", edit->path, strerror(errno));
    }
    else if (!keep_mode(edit, fd) || !write_all(fd, text, len) || fsync(fd) != 0 || rename(temporary, real) != 0) {
        rc = ctl_complain("%s: %s", edit->path, strerror(errno));
        unlink(temporary);
    }
    else {
        fsync(edit->dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(temporary);
    free(real);
    return rc;
}

int flag_edit_save(flag_edit_t *edit)
{
    const char *text =
        json_object_to_json_string_ext(edit->root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    size_t len = strlen(text);
    char *line = malloc(len + 2);
    int rc;

    if (line == NULL) {
        return ctl_complain("out of memory");
    }
    memcpy(line, text, len);
    memcpy(line + len, "\n", 2);
    rc = check(edit->path, line, len + 1);
    if (rc == CTL_OK) {
        rc = replace(edit, line, len + 1);
    }
    free(line);
    return rc;
}
