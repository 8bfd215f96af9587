/* SPDX-License-Identifier: Apache-2.0 */
/* flags get, flags set */
#include "ctl.h"

#include <stdio.h>
#include <string.h>

#include "flag_edit.h"
#include "record/admin_fact.h"

/* ---- get ------------------------------------------------------------------------------------------------------------ */

static void print_flags(const char *who, struct json_object *flags)
{
    struct json_object *member;

    if (json_object_object_get_ex(flags, "enabled", &member)) {
        printf("%senabled=%s\n", who, json_object_get_boolean(member) ? "on" : "off");
    }
    if (json_object_object_get_ex(flags, "rollout", &member)) {
        printf("%srollout=%s\n", who, json_object_get_string(member));
    }
}

int ctl_flags_get(const ctl_t *ctl)
{
    struct json_object *profiles;
    flag_edit_t edit;
    int rc = flag_edit_open(&edit, ctl->file);

    if (rc == CTL_OK && ctl->json) {
        puts(json_object_to_json_string_ext(edit.root, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    }
    else if (rc == CTL_OK) {
        print_flags("", edit.root);
        if (json_object_object_get_ex(edit.root, "profiles", &profiles)) {
            json_object_object_foreach(profiles, profile, flags) {
                char who[256];

                snprintf(who, sizeof(who), "profile=%s ", profile);
                print_flags(who, flags);
            }
        }
    }
    flag_edit_close(&edit);
    return rc;
}

/* ---- set ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    const char *value; /* NULL: not given */
} setting_t;

/* The words: what to set, `settings`; the profiles are left where they are. */
static int read_words(const ctl_t *ctl, setting_t settings[2])
{
    int i;

    for (i = 0; i < ctl->words_count; i++) {
        const char *word = ctl->words[i];

        if (strncmp(word, "enabled=", 8) == 0) {
            settings[0].value = word + 8;
        }
        else if (strncmp(word, "rollout=", 8) == 0) {
            settings[1].value = word + 8;
        }
        else if (strncmp(word, "profile=", 8) != 0 || word[8] == '\0') {
            return ctl_misused("flags set: %s: enabled=, rollout= or profile=NAME", word);
        }
    }
    if (settings[0].value == NULL && settings[1].value == NULL) {
        return ctl_misused("flags set: nothing to set");
    }
    return CTL_OK;
}

static int set_for(flag_edit_t *edit, const char *profile, const setting_t settings[2])
{
    int rc = CTL_OK;
    int i;

    for (i = 0; i < 2 && rc == CTL_OK; i++) {
        if (settings[i].value != NULL) {
            rc = flag_edit_set(edit, profile, settings[i].name, settings[i].value);
        }
    }
    return rc;
}

static int set_all(const ctl_t *ctl, flag_edit_t *edit, const setting_t settings[2])
{
    int profiles = 0;
    int rc = CTL_OK;
    int i;

    for (i = 0; i < ctl->words_count && rc == CTL_OK; i++) {
        if (strncmp(ctl->words[i], "profile=", 8) == 0) {
            profiles++;
            rc = set_for(edit, ctl->words[i] + 8, settings);
        }
    }
    return profiles == 0 ? set_for(edit, NULL, settings) : rc;
}

/* {"by":"chatstreamctl","flags":{…}}: what the file says from now on. */
static int tell(cs_journal_t *journal, const flag_edit_t *edit)
{
    char node[CS_NODE_SIZE];
    char error[CTL_ERROR] = "";
    cs_buf_t detail;
    cs_fact_t fact;
    apr_status_t rv;

    cs_admin_node(node);
    cs_buf_init(&detail, 1024 * 1024);
    (void)((rv = cs_buf_append_str(&detail, "{\"by\":\"chatstreamctl\",\"flags\":"))
           || (rv = cs_buf_append_str(&detail, json_object_to_json_string_ext(edit->root, JSON_C_TO_STRING_PLAIN)))
           || (rv = cs_buf_append_str(&detail, "}")));
    rv = rv != APR_SUCCESS ? rv : cs_admin_fact(journal, &fact, "flag_change", node, &detail, error, sizeof(error));
    cs_buf_free(&detail);
    return rv == APR_SUCCESS ? CTL_OK : ctl_complain("the flags are set, but: %s", error);
}

/* Without --db the row waits in its journal, which the server adopts. */
static int record(const ctl_t *ctl, cs_journal_t *journal, const flag_edit_t *edit)
{
    cs_store_t *store;
    int rc = tell(journal, edit);

    if (rc == CTL_OK && ctl->db != NULL) {
        rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);
        if (rc == CTL_OK) {
            rc = ctl_apply(store, journal, NULL);
        }
    }
    return rc;
}

int ctl_flags_set(const ctl_t *ctl)
{
    setting_t settings[2] = {{"enabled", NULL}, {"rollout", NULL}};
    cs_journal_t *journal = NULL;
    flag_edit_t edit;
    int rc = read_words(ctl, settings);

    if (rc != CTL_OK) {
        return rc;
    }
    rc = flag_edit_open(&edit, ctl->file);
    if (rc == CTL_OK) {
        rc = set_all(ctl, &edit, settings);
    }
    /* The chain before the change: who has no right to tell of it shall not make it. */
    if (rc == CTL_OK && ctl->state != NULL) {
        rc = ctl_journal(ctl, &journal);
        ctl_as_self();
    }
    if (rc == CTL_OK) {
        rc = flag_edit_save(&edit);
    }
    if (rc == CTL_OK && journal != NULL) {
        rc = ctl_as_owner(ctl->state);
        rc = rc == CTL_OK ? record(ctl, journal, &edit) : rc;
    }
    else if (journal != NULL) {
        ctl_as_owner(ctl->state);
    }
    cs_journal_close(journal);
    flag_edit_close(&edit);
    return rc;
}
