/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_fact: bytes that claim to be a fact. What is taken comes back from encode, and decodes to the same again. */
#include <string.h>

#include "fuzz.h"
#include "record/fact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cs_fact_t fact, again;
    cs_buf_t bytes, twice;

    if (cs_fact_decode(&fact, (const char *)data, size) != APR_SUCCESS) {
        return 0;
    }
    cs_buf_init(&bytes, SIZE_MAX);
    cs_buf_init(&twice, SIZE_MAX);
    FUZZ_CHECK(cs_fact_encode(&fact, &bytes) == APR_SUCCESS);
    /* Members of a later version are dropped; without any, the encoding is the one there is. */
    FUZZ_CHECK(bytes.len <= size);
    FUZZ_CHECK(bytes.len < size || !memcmp(bytes.data, data, size));
    FUZZ_CHECK(cs_fact_decode(&again, bytes.data, bytes.len) == APR_SUCCESS);
    FUZZ_CHECK(cs_fact_encode(&again, &twice) == APR_SUCCESS);
    FUZZ_CHECK(twice.len == bytes.len && !memcmp(twice.data, bytes.data, bytes.len));
    cs_buf_free(&bytes);
    cs_buf_free(&twice);
    return 0;
}
