/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "checks.h"

#define KEYS_RETRY_AFTER 2 /* seconds; a fetch is under way */

static void refuse(cs_identity_t *identity, int status, const char *message, const char *challenge)
{
    identity->refusal = (cs_result_t){status, "unauthorized", message, 0, NULL};
    identity->challenge = challenge;
}

static void refuse_token(cs_identity_t *identity, const char *why)
{
    refuse(identity, 401, why, "error=\"invalid_token\"");
}

/* RFC 6750 section 2: a client must not send a token twice; one of the two may be somebody else's. */
static void refuse_two(cs_identity_t *identity)
{
    refuse(identity, 400, "There is a token in more than one place.", "error=\"invalid_request\"");
    identity->refusal.code = "bad_request";
}

static void refuse_unfetched(cs_identity_t *identity)
{
    identity->refusal =
        (cs_result_t){503, "unavailable", "The keys for tokens are not known yet.", KEYS_RETRY_AFTER, NULL};
    identity->unknown_key = 1;
}

static void check_token(const cs_credentials_t *credentials, apr_time_t wall_now, cs_identity_t *identity)
{
    const char *why = NULL;
    unsigned i, unfetched = 0;
    cs_token_e verdict =
        cs_token_verify(credentials->sets, credentials->set_count, credentials->token, strlen(credentials->token),
                        &credentials->policy, wall_now, &identity->claims, &why);

    for (i = 0; i < credentials->set_count; i++) {
        unfetched += !credentials->sets[i];
    }
    if (verdict == CS_TOKEN_GOOD) {
        identity->who = CS_WHO_TOKEN;
        identity->user = cs_claims_text(identity->claims, "sub");
        return;
    }
    identity->unknown_key = verdict == CS_TOKEN_UNKNOWN_KEY;
    if (identity->unknown_key && unfetched) {
        refuse_unfetched(identity);
    }
    else {
        refuse_token(identity, why);
    }
}

/* What a header names may become a key in tables and records: text, and not too much of it. */
static int is_name(const char *text)
{
    size_t len = strlen(text), i;

    for (i = 0; i < len && (unsigned char)text[i] >= 0x20 && text[i] != 0x7f; i++) {}
    return len && i == len && len <= CS_NAME_MAX && cs_utf8_valid(text, len);
}

void cs_identify(const cs_credentials_t *credentials, apr_time_t wall_now, cs_identity_t *identity)
{
    memset(identity, 0, sizeof(*identity));
    identity->who = CS_WHO_ADDRESS;
    identity->user = credentials->address;
    if (credentials->set_count && credentials->tokens > 1) {
        refuse_two(identity);
        return;
    }
    if (credentials->set_count && credentials->tokens) {
        check_token(credentials, wall_now, identity);
        if (identity->refusal.status) {
            return;
        }
    }
    if (credentials->httpd_user && is_name(credentials->httpd_user)) {
        identity->who = CS_WHO_HTTPD;
        identity->user = credentials->httpd_user;
    }
    else if (identity->who != CS_WHO_TOKEN && credentials->header && *credentials->header) {
        if (!is_name(credentials->header)) {
            identity->refusal =
                (cs_result_t){400, "bad_request", "The header that names the user is no name.", 0, NULL};
            return;
        }
        identity->who = CS_WHO_HEADER;
        identity->user = credentials->header;
    }
    if (credentials->required && identity->who == CS_WHO_ADDRESS) {
        refuse(identity, 401, "A token is needed here.",
               ""); /* no error code when none was sent: RFC 6750 section 3.1 */
    }
}

int cs_check_identity(cs_case_t *asked)
{
    asked->refusal = asked->identity->refusal;
    return !asked->refusal.status;
}
