/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_history: a conversation_history as a client sends it. What is made of it is JSON, and is taken again as it is.
 */
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>

#include "chatstream/event.h"
#include "fuzz.h"
#include "request/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int initialized;
    cs_result_t result = {0};
    apr_pool_t *pool;
    if (!initialized) {
        initialized = apr_initialize() == APR_SUCCESS;
    }
    if (apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        return 0;
    }
    const char *once = cs_params_history(pool, (const char *)data, size, &result);
    FUZZ_CHECK((once == NULL) == (result.status != 0));
    if (once) {
        size_t len = strlen(once);
        FUZZ_CHECK(cs_utf8_valid(once, len) && cs_json_valid(once, len));
        const char *twice = cs_params_history(pool, once, len, &result);
        FUZZ_CHECK(twice && strcmp(once, twice) == 0);
    }
    apr_pool_destroy(pool);
    return 0;
}
