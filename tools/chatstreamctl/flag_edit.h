/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flag file (section 9 of the design), read, changed and put in its place in one step: who reads it sees what was or what is, never
 * half of it. Two that change it at once wait for each other.
 */
#ifndef CTL_FLAG_EDIT_H
#define CTL_FLAG_EDIT_H

#include <json.h>

typedef struct {
    const char *path;
    int dir;                  /* locked, while open */
    struct json_object *root; /* an empty object when there is no file */
    int is_there;
} flag_edit_t;

/* Locks and reads. Returns an exit code, after a complaint. */
int flag_edit_open(flag_edit_t *edit, const char *path);
/* "enabled=on", "rollout=", …; for a profile, or everybody (NULL). */
int flag_edit_set(flag_edit_t *edit, const char *profile, const char *name, const char *value);
/* Checks that the server will take it, then puts it in its place. */
int flag_edit_save(flag_edit_t *edit);
/* Accepts what open has left in any state. */
void flag_edit_close(flag_edit_t *edit);

#endif
