/* SPDX-License-Identifier: Apache-2.0 */
#include "dialect.h"

#include <string.h>

#define MODEL "simulator-1"

/* The `responses` dialect repeats the whole answer at its end; a longer one is repeated up to here. */
#define WHOLE_MAX (8 * 1024 * 1024)

struct up_dialect_t {
    const char *path;
    const char *content_type;
    void (*open)(up_speaker_t *s, up_buf_t *out);
    void (*token)(up_speaker_t *s, up_buf_t *out, const char *text, size_t len);
    void (*end)(up_speaker_t *s, up_buf_t *out, bool marker);
};

static void open_nothing(up_speaker_t *s, up_buf_t *out)
{
    (void)s;
    (void)out;
}

/* ---- text ---- */

static void text_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    (void)s;
    up_buf_add(out, text, len);
}

static void text_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    (void)s;
    (void)out;
    (void)marker;
}

/* ---- sse ---- */

static void sse_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    (void)s;
    up_buf_str(out, "data: {\"content\":\"");
    up_buf_json(out, text, len);
    up_buf_str(out, "\"}\n\n");
}

static void sse_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    if (!marker) {
        return;
    }
    up_buf_str(out, "data: {\"type\":\"done\",\"finish_reason\":\"stop\"");
    if (s->usage) {
        up_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%llu}", s->prompt_tokens,
                      (unsigned long long)s->tokens);
    }
    up_buf_str(out, "}\n\n");
}

/* ---- openai: chat.completion.chunk ---- */

static void openai_open(up_speaker_t *s, up_buf_t *out)
{
    up_buf_printf(&s->prefix,
                  "data: {\"id\":\"chatcmpl-sim%010llu\",\"object\":\"chat.completion.chunk\",\"created\":%lld,"
                  "\"model\":\"" MODEL "\",\"system_fingerprint\":\"fp_simulator\",",
                  (unsigned long long)s->n, (long long)s->created);
    up_buf_add(out, s->prefix.data, s->prefix.len);
    up_buf_str(out, "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
                    "\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    up_buf_str(&s->prefix, "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
}

static void openai_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    up_buf_add(out, s->prefix.data, s->prefix.len);
    up_buf_json(out, text, len);
    up_buf_str(out, "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
}

static void openai_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    size_t common = s->prefix.len - strlen("\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");

    up_buf_add(out, s->prefix.data, common);
    up_buf_str(out, "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n");
    if (s->usage) {
        up_buf_add(out, s->prefix.data, common);
        up_buf_printf(out,
                      "\"choices\":[],\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%llu,"
                      "\"total_tokens\":%llu}}\n\n",
                      s->prompt_tokens, (unsigned long long)s->tokens,
                      (unsigned long long)(s->prompt_tokens + s->tokens));
    }
    if (marker) {
        up_buf_str(out, "data: [DONE]\n\n");
    }
}

/* ---- anthropic: messages ---- */

static void anthropic_open(up_speaker_t *s, up_buf_t *out)
{
    up_buf_printf(out,
                  "event: message_start\n"
                  "data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_sim%010llu\",\"type\":\"message\","
                  "\"role\":\"assistant\",\"model\":\"" MODEL "\",\"content\":[],\"stop_reason\":null,"
                  "\"stop_sequence\":null",
                  (unsigned long long)s->n);
    if (s->usage) {
        up_buf_printf(out, ",\"usage\":{\"input_tokens\":%u,\"output_tokens\":1}", s->prompt_tokens);
    }
    up_buf_str(out, "}}\n\n"
                    "event: content_block_start\n"
                    "data: {\"type\":\"content_block_start\",\"index\":0,"
                    "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
                    "event: ping\n"
                    "data: {\"type\": \"ping\"}\n\n");
}

static void anthropic_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    (void)s;
    up_buf_str(out,
               "event: content_block_delta\n"
               "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"");
    up_buf_json(out, text, len);
    up_buf_str(out, "\"}}\n\n");
}

static void anthropic_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    up_buf_str(out,
               "event: content_block_stop\n"
               "data: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
               "event: message_delta\n"
               "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}");
    if (s->usage) {
        up_buf_printf(out, ",\"usage\":{\"output_tokens\":%llu}", (unsigned long long)s->tokens);
    }
    up_buf_str(out, "}\n\n");
    if (marker) {
        up_buf_str(out, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

/* ---- responses: OpenAI's newer API ---- */

static void responses_event(up_speaker_t *s, up_buf_t *out, const char *type)
{
    up_buf_printf(out, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%llu", type, type,
                  (unsigned long long)s->sequence++);
}

static void responses_state(up_speaker_t *s, up_buf_t *out, const char *type, const char *status)
{
    responses_event(s, out, type);
    up_buf_printf(out,
                  ",\"response\":{\"id\":\"resp_sim%010llu\",\"object\":\"response\",\"created_at\":%lld,"
                  "\"status\":\"%s\",\"error\":null,\"incomplete_details\":null,\"model\":\"" MODEL "\",",
                  (unsigned long long)s->n, (long long)s->created, status);
}

static void responses_item(up_speaker_t *s, up_buf_t *out, const char *status, bool with_text)
{
    up_buf_printf(out,
                  "{\"id\":\"msg_sim%010llu\",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\","
                  "\"content\":[",
                  (unsigned long long)s->n, status);
    if (with_text) {
        up_buf_str(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"");
        up_buf_add(out, s->whole.data, s->whole.len);
        up_buf_str(out, "\"}");
    }
    up_buf_str(out, "]}");
}

static void responses_place(up_speaker_t *s, up_buf_t *out)
{
    up_buf_printf(out, ",\"item_id\":\"msg_sim%010llu\",\"output_index\":0,\"content_index\":0",
                  (unsigned long long)s->n);
}

static void responses_open(up_speaker_t *s, up_buf_t *out)
{
    responses_state(s, out, "created", "in_progress");
    up_buf_str(out, "\"output\":[],\"usage\":null}}\n\n");
    responses_state(s, out, "in_progress", "in_progress");
    up_buf_str(out, "\"output\":[],\"usage\":null}}\n\n");
    responses_event(s, out, "output_item.added");
    up_buf_str(out, ",\"output_index\":0,\"item\":");
    responses_item(s, out, "in_progress", false);
    up_buf_str(out, "}\n\n");
    responses_event(s, out, "content_part.added");
    responses_place(s, out);
    up_buf_str(out, ",\"part\":{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"\"}}\n\n");
}

static void responses_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    if (s->whole.len < WHOLE_MAX) {
        up_buf_json(&s->whole, text, len);
    }
    responses_event(s, out, "output_text.delta");
    responses_place(s, out);
    up_buf_str(out, ",\"delta\":\"");
    up_buf_json(out, text, len);
    up_buf_str(out, "\",\"logprobs\":[]}\n\n");
}

static void responses_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    responses_event(s, out, "output_text.done");
    responses_place(s, out);
    up_buf_str(out, ",\"text\":\"");
    up_buf_add(out, s->whole.data, s->whole.len);
    up_buf_str(out, "\",\"logprobs\":[]}\n\n");
    responses_event(s, out, "content_part.done");
    responses_place(s, out);
    up_buf_str(out, ",\"part\":{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"");
    up_buf_add(out, s->whole.data, s->whole.len);
    up_buf_str(out, "\"}}\n\n");
    responses_event(s, out, "output_item.done");
    up_buf_str(out, ",\"output_index\":0,\"item\":");
    responses_item(s, out, "completed", true);
    up_buf_str(out, "}\n\n");
    if (!marker) {
        return;
    }
    responses_state(s, out, "completed", "completed");
    up_buf_str(out, "\"output\":[");
    responses_item(s, out, "completed", true);
    if (s->usage) {
        up_buf_printf(out,
                      "],\"usage\":{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":0},"
                      "\"output_tokens\":%llu,\"output_tokens_details\":{\"reasoning_tokens\":0},"
                      "\"total_tokens\":%llu}}}\n\n",
                      s->prompt_tokens, (unsigned long long)s->tokens,
                      (unsigned long long)(s->prompt_tokens + s->tokens));
    }
    else {
        up_buf_str(out, "],\"usage\":null}}\n\n");
    }
}

/* ---- ollama: one JSON object a line ---- */

static void ollama_head(up_speaker_t *s, up_buf_t *out)
{
    struct tm tm;
    char when[32];

    gmtime_r(&s->created, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    up_buf_printf(out,
                  "{\"model\":\"" MODEL "\",\"created_at\":\"%s.%06lluZ\",\"message\":{\"role\":\"assistant\","
                  "\"content\":\"",
                  when, (unsigned long long)s->tokens % 1000000);
}

static void ollama_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    ollama_head(s, out);
    up_buf_json(out, text, len);
    up_buf_str(out, "\"},\"done\":false}\n");
}

static void ollama_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    if (!marker) {
        return;
    }
    ollama_head(s, out);
    up_buf_str(out,
               "\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":883583458,\"load_duration\":1334875");
    if (s->usage) {
        up_buf_printf(out,
                      ",\"prompt_eval_count\":%u,\"prompt_eval_duration\":342546000,\"eval_count\":%llu,"
                      "\"eval_duration\":535599000",
                      s->prompt_tokens, (unsigned long long)s->tokens);
    }
    up_buf_str(out, "}\n");
}

/* ---- all of them ---- */

static const struct up_dialect_t dialects[] = {
    {"/sse", "text/event-stream", open_nothing, sse_token, sse_end},
    {"/openai", "text/event-stream; charset=utf-8", openai_open, openai_token, openai_end},
    {"/text", "text/plain; charset=utf-8", open_nothing, text_token, text_end},
    {"/anthropic", "text/event-stream; charset=utf-8", anthropic_open, anthropic_token, anthropic_end},
    {"/responses", "text/event-stream; charset=utf-8", responses_open, responses_token, responses_end},
    {"/ollama", "application/x-ndjson", open_nothing, ollama_token, ollama_end},
};

const struct up_dialect_t *up_dialect_find(const char *path)
{
    size_t i;

    for (i = 0; i < sizeof dialects / sizeof dialects[0]; i++) {
        if (strcmp(dialects[i].path, path) == 0) {
            return &dialects[i];
        }
    }
    return NULL;
}

const char *up_dialect_content_type(const struct up_dialect_t *dialect)
{
    return dialect->content_type;
}

void up_dialect_start(up_speaker_t *s, const struct up_dialect_t *dialect, uint64_t n, uint32_t prompt_tokens,
                      bool usage)
{
    up_dialect_stop(s);
    s->dialect = dialect;
    s->n = n;
    s->prompt_tokens = prompt_tokens;
    s->usage = usage;
    s->created = time(NULL);
}

static void open_once(up_speaker_t *s, up_buf_t *out)
{
    if (!s->opened) {
        s->opened = true;
        s->dialect->open(s, out);
    }
}

void up_dialect_token(up_speaker_t *s, up_buf_t *out, const char *text, size_t len)
{
    open_once(s, out);
    s->tokens++;
    s->dialect->token(s, out, text, len);
}

void up_dialect_end(up_speaker_t *s, up_buf_t *out, bool marker)
{
    open_once(s, out);
    s->dialect->end(s, out, marker);
}

void up_dialect_stop(up_speaker_t *s)
{
    up_buf_free(&s->prefix);
    up_buf_free(&s->whole);
    memset(s, 0, sizeof *s);
}
