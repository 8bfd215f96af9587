/* SPDX-License-Identifier: Apache-2.0 */
#include "redact.h"

#include <string.h>

#include <apr_strings.h>
#include <http_protocol.h>
#include <scoreboard.h>

#define REDACTED "[redacted]"

static int is_secret(apr_pool_t *pool, const char *name, size_t len)
{
    static const char *const secrets[] = { "token", "message", "query", "conversation_history" };
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

/*
 * Walks over name=value pairs wherever they may begin: at the start, after ?, &, ; or #, and after the blank of a request line.
 * Only & ends a secret value, and the blank before "HTTP/1.1": that is how the parser takes it.
 */
char *cs_redact_text(apr_pool_t *pool, const char *text)
{
    const char *at = text, *kept = text;
    char *out = NULL;

    if (!text) {
        return NULL;
    }
    while (*at) {
        size_t name = strcspn(at, "?&; #=");

        if (at[name] == '=' && is_secret(pool, at, name)) {
            const char *value = at + name + 1;

            out = apr_pstrcat(pool, out ? out : "", apr_pstrmemdup(pool, kept, (size_t)(value - kept)), REDACTED, NULL);
            at = kept = value + strcspn(value, "& ");
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

void cs_redact_request(request_rec *r)
{
    cs_redact_referer(r);
    if (r->the_request && strchr(r->the_request, '=')) {
        r->the_request = cs_redact_text(r->pool, r->the_request);
        r->unparsed_uri = cs_redact_text(r->pool, r->unparsed_uri);
        r->args = cs_redact_text(r->pool, r->args);
        r->parsed_uri.query = r->args;
        /* mod_status shows the line that was copied when the request came in. */
        ap_update_child_status(r->connection->sbh, SERVER_BUSY_WRITE, r);
    }
}
