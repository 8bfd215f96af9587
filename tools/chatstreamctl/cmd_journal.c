/* SPDX-License-Identifier: Apache-2.0 */
/* journal show, journal replay */
#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>
#include <apr_tables.h>

#include "record/admin_fact.h"
#include "record/audit_row.h"
#include "record/chain.h"

/* ---- show ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const ctl_t *ctl;
    apr_pool_t *pool; /* of one line */
    cs_buf_t line;
    int wrong; /* something in there is not a fact */
    int failed;
} show_t;

static int is_text(int text)
{
    return text == CS_TXT_MESSAGE || text == CS_TXT_ANSWER;
}

/* A member of the JSON line, or a word `name=value` of the other; `at` and wants have a form of their own. */
static void add_text(show_t *show, const char *name, const cs_text_t *text)
{
    const char *value = apr_pstrmemdup(show->pool, text->data, text->len);

    if (show->ctl->json) {
        cs_audit_json_text(&show->line, name, value);
        return;
    }
    cs_buf_append_str(&show->line, " ");
    cs_buf_append_str(&show->line, name);
    cs_buf_append_str(&show->line, "=");
    /* As JSON, so that no text breaks the line or moves the cursor. */
    cs_buf_append_json(&show->line, text->data, text->len);
}

static void add_number(show_t *show, const char *name, int64_t number)
{
    char digits[24];

    apr_snprintf(digits, sizeof(digits), "%" APR_INT64_T_FMT, number);
    if (show->ctl->json) {
        cs_audit_json_int(&show->line, name, digits);
        return;
    }
    cs_buf_append_str(&show->line, " ");
    cs_buf_append_str(&show->line, name);
    cs_buf_append_str(&show->line, "=");
    cs_buf_append_str(&show->line, digits);
}

static void add_fact(show_t *show, const cs_fact_t *fact, int applied)
{
    char at[CS_CHAIN_TS_LEN + 1];
    cs_text_t word;
    int i;

    word.data = cs_fact_kind_name(fact->kind);
    word.len = strlen(word.data);
    add_text(show, "kind", &word);
    if (fact->number[CS_NUM_AT] != CS_NUM_NONE) {
        cs_chain_ts(at, fact->number[CS_NUM_AT]);
        word.data = at;
        word.len = strlen(at);
        add_text(show, "at", &word);
    }
    add_number(show, "applied", applied != 0);
    if (fact->link.seq > 0) {
        add_number(show, "seq", (int64_t)fact->link.seq);
    }
    for (i = 0; i < CS_TXT_COUNT; i++) {
        if (fact->text[i].data != NULL && is_text(i) && !show->ctl->with_text) {
            add_number(show, i == CS_TXT_MESSAGE ? "message_bytes" : "answer_bytes", (int64_t)fact->text[i].len);
        }
        else if (fact->text[i].data != NULL) {
            add_text(show, cs_fact_text_name(i), &fact->text[i]);
        }
    }
    for (i = 0; i < CS_NUM_COUNT; i++) {
        if (i != CS_NUM_AT && fact->number[i] != CS_NUM_NONE) {
            add_number(show, cs_fact_number_name(i), fact->number[i]);
        }
    }
}

static int show_fact(void *baton, const char *chain, const cs_journal_place_t *place, const cs_fact_t *fact,
                     int applied, const char *note)
{
    show_t *show = baton;
    cs_text_t word = {chain, strlen(chain)};

    apr_pool_clear(show->pool);
    show->line.len = 0;
    cs_buf_append_str(&show->line, show->ctl->json ? "{" : "");
    add_text(show, "chain", &word);
    add_number(show, "segment", (int64_t)place->segment);
    add_number(show, "offset", (int64_t)place->offset);
    if (note != NULL || fact == NULL) {
        word.data = note != NULL ? note : "unreadable";
        word.len = strlen(word.data);
        add_text(show, "note", &word);
        show->wrong |=
            strcmp(word.data, "torn") != 0; /* a torn one was being written when its writer died: nothing is lost */
    }
    else {
        add_fact(show, fact, applied);
    }
    cs_buf_append_str(&show->line, show->ctl->json ? "}\n" : "\n");
    if (!show->ctl->json && show->line.len > 0) {
        /* The first word has a blank before it. */
        show->line.len--;
        memmove(show->line.data, show->line.data + 1, show->line.len);
    }
    show->failed = ctl_put(&show->line) != CTL_OK;
    return show->failed;
}

int ctl_journal_show(const ctl_t *ctl)
{
    char error[CTL_ERROR] = "";
    show_t show;
    int rc = CTL_OK;

    memset(&show, 0, sizeof(show));
    show.ctl = ctl;
    apr_pool_create(&show.pool, ctl->pool);
    cs_buf_init(&show.line, (size_t)CS_FACT_MAX * 7);
    if (cs_journal_list(ctl->state, show_fact, &show, error, sizeof(error)) != APR_SUCCESS) {
        rc = ctl_complain("journal show: %s", *error != '\0' ? error : ctl->state);
    }
    cs_buf_free(&show.line);
    return show.failed || show.wrong ? CTL_WRONG : rc;
}

/* ---- replay --------------------------------------------------------------------------------------------------------- */

static int adopt(const ctl_t *ctl, cs_journal_t **journal)
{
    char node[CS_NODE_SIZE];
    char error[CTL_ERROR] = "";
    cs_journal_options_t options;
    apr_status_t rv;

    cs_admin_node(node);
    memset(&options, 0, sizeof(options));
    options.dir = ctl->state;
    options.node = node;
    options.sync = CS_SYNC_ALWAYS;
    *journal = NULL;
    rv = cs_journal_adopt(journal, &options, error, sizeof(error));
    if (rv == APR_SUCCESS && *error != '\0') {
        ctl_complain("%s", error); /* what it dropped on the way */
    }
    if (rv != APR_SUCCESS && !APR_STATUS_IS_NOTFOUND(rv)) {
        return ctl_complain("journal replay: %s", error);
    }
    return CTL_OK;
}

int ctl_journal_replay(const ctl_t *ctl)
{
    uint64_t chains = 0;
    uint64_t facts = 0;
    apr_array_header_t *adopted = apr_array_make(ctl->pool, 8, sizeof(cs_journal_t *));
    cs_journal_t *journal;
    cs_store_t *store;
    int rc = ctl_store(ctl, &store, CTL_WITH_SCHEMA);
    int i;

    if (rc == CTL_OK) {
        rc = ctl_as_owner(ctl->state);
    }
    while (rc == CTL_OK) {
        uint64_t some = 0;

        rc = adopt(ctl, &journal);
        if (rc != CTL_OK || journal == NULL) {
            break;
        }
        rc = ctl_apply(store, journal, &some);
        APR_ARRAY_PUSH(adopted, cs_journal_t *) = journal;
        chains += rc == CTL_OK;
        facts += some;
    }
    /* Not before: one that stays, because streams of it are open and only httpd can close them, would be found again. */
    for (i = 0; i < adopted->nelts; i++) {
        cs_journal_close(APR_ARRAY_IDX(adopted, i, cs_journal_t *));
    }
    if (rc != CTL_USAGE) {
        printf(ctl->json ? "{\"chains\":%" PRIu64 ",\"facts\":%" PRIu64 "}\n"
                         : "%" PRIu64 " chains adopted, %" PRIu64 " facts applied\n",
               chains, facts);
    }
    return rc;
}
