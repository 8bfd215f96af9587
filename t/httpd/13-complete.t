#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# chatstream-complete: the whole answer as one document, wherever it is asked, also where streaming is off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $UUID7 = qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
my $TIME = qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

sub complete
{
    my (@arguments) = @_;
    my $text = chat(@arguments);
    $text =~ s/SetHandler chatstream$/SetHandler chatstream-complete/m or die;
    return $text;
}

my $config = complete('/whole', 'sse?script=it')
    . complete('/off', 'sse?tokens=7', 'ChatStreamEnabled Off')
    . complete('/raw', 'sse?tokens=7', 'ChatStreamFormat raw')
    . complete('/500', 'sse?status=500')
    . complete('/404', 'sse?status=404')
    . complete('/429', 'sse?status=429&retry_after=17')
    . complete('/refused', 'x', 'ChatStreamUpstream "http://127.0.0.1:1/"')
    . complete('/silent', 'sse?script=it', 'ChatStreamTimeout 30 headers=100ms')
    . complete('/stalled', 'sse?script=it', 'ChatStreamTimeout 30 idle=100ms')
    . complete('/late', 'sse?script=it', 'ChatStreamTimeout 200ms')
    . complete('/small', 'sse?tokens=50&size=100', 'ChatStreamMaxAnswer 4k')
    . complete('/slow', 'sse?script=it', 'ChatStreamCommitAfter 20ms', 'ChatStreamHeartbeat 20ms');

my @setups = (
    { name => 'event',  mpm => 'event' },
    { name => 'TLS',    mpm => 'event', tls => 1, ask => { tls => 1 } },
    { name => 'HTTP/2', mpm => 'event', http2 => 1, ask => { http2 => 1 } },
    { name => 'worker', mpm => 'worker' },
);

for my $setup (@setups) {
    my ($name, %ask) = ($setup->{name}, %{ $setup->{ask} || {} });
    my $t = ChatStream::Test->new(
        config => $config, server_config => 'ChatStreamMaxStreams 100',
        map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(mpm tls http2),
    );
    my $play = sub { $t->upstream->reset; $t->upstream->script(it => $_[0]) };

    $play->(<<'X');
token Gr
send data: {"sources":["a"]}\n\n
token \xc3\xbc\xc3\x9fe
send data: {"sources":["b"],"n":1}\n\n
send data: {"type":"done","finish_reason":"length","usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n
X
    my $answer = $t->request('/whole', %ask, json => { message => 'a' });
    is $answer->status, 200, "$name: status";
    is $answer->header('content-type'), 'application/json', "$name: content type";
    is $answer->header('cache-control'), 'no-store', "$name: not for caches";
    is $answer->header('content-length'), length $answer->body, "$name: of known length";
    is $answer->header('retry-after'), undef, "$name: nothing to retry";
    my $document = $answer->json;
    is_deeply [ sort keys %$document ], [ sort qw(stream_id created_at content finish_reason usage metrics metadata) ], "$name: members";
    like $document->{stream_id}, $UUID7, "$name: stream_id";
    is $document->{stream_id}, $answer->header('x-stream-id'), "$name: X-Stream-Id is the same";
    is $answer->header('x-connection-id'), $document->{stream_id}, "$name: X-Connection-Id";
    like $document->{created_at}, $TIME, "$name: created_at";
    is $document->{content}, "Gr\x{fc}\x{df}e", "$name: content";
    is $document->{finish_reason}, 'length', "$name: finish_reason";
    is_deeply $document->{usage}, { prompt_tokens => 5, completion_tokens => 2 }, "$name: usage";
    is_deeply [ sort keys %{ $document->{metrics} } ], [qw(duration_ms first_token_ms tokens)], "$name: metrics";
    is $document->{metrics}{tokens}, 2, "$name: tokens";
    is_deeply $document->{metadata}, [ { sources => ['a'] }, { sources => ['b'], n => 1 } ], "$name: metadata";

    is $t->request('/off?message=a', %ask)->json->{metrics}{tokens}, 7, "$name: works where streaming is off";
    is $t->request('/raw?message=a', %ask)->json->{metrics}{tokens}, 7, "$name: whatever the streaming format is";

    # No heartbeat, no commit: nothing is said before the end.
    $play->("token a\nsleep 100\ndone\n");
    is $t->request('/slow?message=a', %ask)->json->{content}, 'a', "$name: a slow answer";
    $play->("done\n");
    is $t->request('/whole?message=a', %ask)->json->{content}, '', "$name: an empty answer";

    my @failures = (
        # path, script, status, code, retry
        [ '/500',     '',                              502, 'upstream_error' ],
        [ '/404',     '',                              502, 'upstream_error' ],
        [ '/429',     '',                              429, 'rate_limited', 17 ],
        [ '/refused', '',                              502, 'upstream_error' ],
        [ '/silent',  "stall\n",                       504, 'upstream_timeout' ],
        [ '/stalled', "token a\nstall\n",              504, 'upstream_timeout' ],
        [ '/late',    "token a\nstall\n",              504, 'timeout' ],
        [ '/whole',   "token a\ncut\n",                502, 'upstream_error' ],
        [ '/whole',   "token a\nclose\n",              502, 'upstream_error' ],
        [ '/whole',   "token a\nsend event: error\\ndata: {\"error\":\"SECRET\"}\\n\\n\n", 502, 'upstream_error' ],
        [ '/small',   '',                              502, 'too_large' ],
    );
    for my $failure (@failures) {
        my ($path, $script, $status, $code, $retry) = @$failure;
        $play->($script || "done\n");
        my $answer = $t->request("$path?message=a", %ask);
        is $answer->status, $status, "$name: $path, $code: status";
        is $answer->header('content-type'), 'application/problem+json', "$name: $path, $code: problem document";
        is $answer->json->{code}, $code, "$name: $path, $code";
        is $answer->header('retry-after'), $retry, "$name: $path, $code: Retry-After";
        unlike $answer->body, qr/SECRET/, "$name: $path, $code: no word of the upstream's";
    }
    $t->expect_log(qr/chatstream:warn.*stream \S+ ended as (?:error|timeout)/);

    is $t->request('/off', %ask)->status, 400, "$name: no message";
    my $before = $t->upstream->count('requests');
    my $head = $t->request('/off?message=a', method => 'HEAD', $ask{http2} ? (arguments => ['-I']) : (), %ask);
    is $head->status, 200, "$name: HEAD";
    is $head->header('content-type'), 'application/json', "$name: HEAD says what it would be";
    is $t->upstream->count('requests'), $before, "$name: HEAD asks nobody";
    my $put = $t->request('/off?message=a', method => 'DELETE', %ask);
    is $put->status, 405, "$name: DELETE is for streams";
    is $put->header('allow'), 'GET, HEAD, POST, OPTIONS', "$name: Allow";
    $t->check;
}
done_testing();
