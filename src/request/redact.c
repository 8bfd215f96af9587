/* SPDX-License-Identifier: Apache-2.0 */
#include "redact.h"

#include <string.h>

#include <apr_strings.h>
#include <http_config.h>
#include <http_log.h>
#include <http_protocol.h>
#include <scoreboard.h>

#define REDACTED "[redacted]"

static int is_secret(apr_pool_t *pool, const char *name, size_t len)
{
    static const char *const secrets[] = {"token", "message", "query", "conversation_history"};
    char *plain = apr_pstrmemdup(pool, name, len);
    size_t i;

    ap_unescape_urlencoded(plain); /* mess%61ge is message to the parser, so it is here */
    for (i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++) {
        if (!strcasecmp(plain, secrets[i])) {
            return 1;
        }
    }
    return 0;
}

/* " HTTP/1.1" at the end of a request line, else the end of `text`: a blank that no client should send is the user's. */
static const char *protocol_of(const char *text)
{
    const char *end = text + strlen(text), *blank = strrchr(text, ' ');

    return blank && !strncmp(blank, " HTTP/", 6) && strspn(blank + 6, "0123456789.") == (size_t)(end - blank - 6)
               ? blank
               : end;
}

/*
 * Walks over name=value pairs wherever they may begin: at the start, after ?, &, ; or #, and after the blank of a request line.
 * Only & ends a secret value, and the protocol: that is how the parser takes it.
 */
char *cs_redact_text(apr_pool_t *pool, const char *text)
{
    const char *at = text, *kept = text, *end;
    char *out = NULL;

    if (!text) {
        return NULL;
    }
    end = protocol_of(text);
    while (at < end) {
        size_t name = strcspn(at, "?&; #=");

        if (at[name] == '=' && is_secret(pool, at, name)) {
            const char *value = at + name + 1;

            out = apr_pstrcat(pool, out ? out : "", apr_pstrmemdup(pool, kept, (size_t)(value - kept)), REDACTED, NULL);
            at = value + strcspn(value, "&");
            at = kept = at < end ? at : end;
        }
        else {
            at += name;
        }
        if (*at) {
            at++;
        }
    }
    return out ? apr_pstrcat(pool, out, kept, NULL) : apr_pstrdup(pool, text);
}

void cs_redact_referer(request_rec *r)
{
    const char *referer = apr_table_get(r->headers_in, "Referer");

    if (referer && strchr(referer, '=')) {
        apr_table_setn(r->headers_in, "Referer", cs_redact_text(r->pool, referer));
    }
}

void cs_redact_line(request_rec *r)
{
    cs_redact_referer(r);
    if (r->the_request && strchr(r->the_request, '=')) {
        r->the_request = cs_redact_text(r->pool, r->the_request);
        /* mod_status shows the line that was copied when the request came in. */
        ap_update_child_status(r->connection->sbh, SERVER_BUSY_WRITE, r);
    }
}

void cs_redact_request(request_rec *r)
{
    cs_redact_line(r);
    if (r->args) {
        r->unparsed_uri = cs_redact_text(r->pool, r->unparsed_uri);
        r->args = cs_redact_text(r->pool, r->args);
        r->parsed_uri.query = r->args;
    }
}

/* ---- what httpd itself says while it reads a request --------------------------------------------------------------- */

static void cap_level(request_rec *r, const char *name, int cap)
{
    const module *m = ap_find_linked_module(name);

    if (m && ap_get_request_module_loglevel(r, m->module_index) > cap) {
        struct ap_logconf *log = ap_new_log_config(r->pool, r->log ? r->log : &r->server->log);

        ap_set_module_loglevel(r->pool, log, m->module_index, cap);
        r->log = log;
    }
}

void cs_redact_hush(request_rec *r, cs_hush_e until)
{
    r->log = r->connection->log;
    if (until == CS_HUSH_READING) {
        cap_level(r, "core.c", APLOG_INFO); /* trace5: "Request received from client"; debug: what it cannot parse */
    }
    else {
        cap_level(r, "http_core.c", APLOG_TRACE3); /* trace4: "Headers received from client" */
    }
}
