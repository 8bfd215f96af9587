/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <strings.h>

#include "chatstream/gate.h"

const char cs_cors_expose[] = "X-Stream-Id, X-Connection-Id, Retry-After, RateLimit-Limit, RateLimit-Remaining, "
                              "RateLimit-Reset, WWW-Authenticate, x-vercel-ai-ui-message-stream";

static const char allow_headers[] = "Authorization, Content-Type, Last-Event-ID, X-User-Id, X-Connection-Id, "
                                    "X-Stream-Id, Idempotency-Key, Accept, Cache-Control, X-Requested-With, "
                                    "traceparent, tracestate, User-Agent";

void cs_cors_decide(const char *const *origins, unsigned count, const char *origin, cs_cors_t *cors)
{
    unsigned i;

    memset(cors, 0, sizeof(*cors));
    if (count && !strcmp(origins[0], "*")) {
        cors->allow_origin = "*";
        return;
    }
    cors->vary = count > 0;
    for (i = 0; origin && i < count && !cors->allow_origin; i++) {
        if (!strcmp(origins[i], origin)) {
            cors->allow_origin = origins[i];
            cors->credentials = 1;
        }
    }
}

/* The OpenAI and Anthropic SDKs say which version they are in headers of their own. */
static int is_of_an_sdk(const char *name, size_t len)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

    return len > 12 && !strncasecmp(name, "x-stainless-", 12) && strspn(name, letters) >= len;
}

void cs_cors_allow_headers(char *out, size_t size, const char *requested)
{
    size_t used = sizeof(allow_headers) - 1;

    if (size <= used) {
        *out = '\0';
        return;
    }
    memcpy(out, allow_headers, used + 1);
    while (requested && *requested) {
        size_t skip = strspn(requested, ", \t"), len = strcspn(requested + skip, ", \t");

        requested += skip;
        if (is_of_an_sdk(requested, len)) {
            if (used + 2 + len >= size) {
                return;
            }
            memcpy(out + used, ", ", 2);
            memcpy(out + used + 2, requested, len);
            used += 2 + len;
            out[used] = '\0';
        }
        requested += len;
    }
}
