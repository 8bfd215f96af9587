/* SPDX-License-Identifier: Apache-2.0 */
/* dialect text: the body is the answer. Its end is the end of the body, so an orderly end is always a whole answer. */
#include "event/dialect.h"
#include "event/provider.h"

static apr_status_t frame(cs_decoder_t *decoder, const cs_frame_t *piece)
{
    return cs_decoder_token(decoder, piece->data, piece->len);
}

static const char *missing(const cs_decoder_t *decoder)
{
    (void)decoder;
    return NULL;
}

const cs_dialect_t cs_dialect_text = {
    "text", "text/plain, */*;q=0.5", &cs_framing_text, 0, frame, missing, cs_provider_build_plain,
};
