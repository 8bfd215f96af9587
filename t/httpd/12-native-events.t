#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The events of the formats native and raw, heartbeats, characters cut by the upstream, and when a response is committed; on
# the suspended and on the blocking sink.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $UUID7 = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
my $TIME = qr/20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/;

my $config = chat('/tokens', 'sse?tokens=100')
    . chat('/script', 'sse?script=it')
    . chat('/openai', 'openai?tokens=20', 'ChatStreamUpstream "${UPSTREAM}/openai?tokens=20" dialect=openai', 'ChatStreamModel m')
    . chat('/text', 'text', 'ChatStreamUpstream "${UPSTREAM}/text?script=it" dialect=text')
    . chat('/split', 'sse?tokens=30&size=40&text=utf8&split=1')
    . chat('/whole', 'sse?tokens=30&size=40&text=utf8')
    . chat('/raw', 'sse?script=it', 'ChatStreamFormat raw')
    . chat('/beat', 'sse?script=it', 'ChatStreamHeartbeat 50ms', 'ChatStreamCommitAfter 20ms')
    . chat('/rawbeat', 'sse?script=it', 'ChatStreamHeartbeat 50ms', 'ChatStreamFormat raw')
    . chat('/busy', 'sse?tokens=60&rate=100', 'ChatStreamHeartbeat 20ms')
    . chat('/slow', 'sse?script=it', 'ChatStreamCommitAfter 50ms', 'ChatStreamHeartbeat 50ms')
    . chat('/patient', 'sse?script=it', 'ChatStreamCommitAfter 60s')
    . chat('/fail', 'sse?status=500', 'ChatStreamCommitAfter 60s');

# What holds for every native stream; its events without heartbeats.
sub well_formed
{
    my ($name, $stream) = @_;
    my $text = $stream->body;
    $stream->{taken} = 0;
    my @events = grep { $_->{event} ne 'heartbeat' } $stream->events;
    like $text, qr/^retry: 1000\n\n/, "$name: the first line";
    unlike $text, qr/\r|\x{feff}|^event:\s*$/m, "$name: LF only, no BOM, no empty event name";
    my $block = qr/(?:id: $UUID7:\d+\nevent: message\ndata: \{[^\n]*\}\n\n|event: heartbeat\ndata: \{"ts":"$TIME"\}\n\n)/;
    like $text, qr/^retry: 1000\n\n$block+$/, "$name: nothing but events and heartbeats";
    my $id = $stream->header('x-stream-id');
    is join(' ', map { $_->{id} // '-' } @events), join(' ', map { "$id:$_" } 1 .. @events), "$name: ids from 1 without gaps";
    is scalar(grep { !$_->{json} } @events), 0, "$name: all data is JSON";
    my @types = map { $_->{json}{type} } @events;
    is $types[0], 'start', "$name: start comes first";
    is_deeply [ sort keys %{ $events[0]{json} } ], [qw(created_at stream_id type)], "$name: members of start";
    like $events[0]{json}{created_at}, qr/^$TIME$/, "$name: its time";
    like $types[-1], qr/^(?:complete|error)$/, "$name: complete or error comes last";
    is scalar(grep { /^(?:start|complete|error)$/ } @types), 2, "$name: each once";
    ok $stream->complete, "$name: the body ended properly";
    return @events;
}

sub is_completion
{
    my ($name, $event, %expected) = @_;
    my $json = $event->{json};
    is_deeply [ sort keys %$json ], [qw(finish_reason metrics type usage)], "$name: members of complete";
    is_deeply [ sort keys %{ $json->{metrics} } ], [qw(duration_ms first_token_ms tokens)], "$name: metrics";
    is_deeply { map { $_ => $json->{$_} } qw(finish_reason usage) }, { map { $_ => $expected{$_} } qw(finish_reason usage) },
        "$name: finish_reason and usage";
    is $json->{metrics}{tokens}, $expected{tokens}, "$name: tokens are counted";
    like $json->{metrics}{duration_ms}, qr/^\d+$/, "$name: duration";
    return;
}

for my $setup ({ sink => 'suspended', mpm => 'event' }, { sink => 'blocking', mpm => 'worker' }) {
    my $sink = $setup->{sink};
    my $t = ChatStream::Test->new(config => $config, mpm => $setup->{mpm}, server_config => 'ChatStreamMaxStreams 100');
    my $play = sub { $t->upstream->reset; $t->upstream->script(it => $_[0]) };

    my @events = well_formed("$sink: tokens", $t->stream('/tokens?message=a+b'));
    is scalar(@events), 102, "$sink: all of them";
    is_completion("$sink: tokens", $events[-1], tokens => 100, finish_reason => 'stop',
        usage => { prompt_tokens => 2, completion_tokens => 100 });
    cmp_ok $events[-1]{json}{metrics}{first_token_ms}, '<=', $events[-1]{json}{metrics}{duration_ms}, "$sink: first token before the end";

    @events = well_formed("$sink: openai", $t->stream('/openai?message=a+b'));
    is_completion("$sink: openai", $events[-1], tokens => 20, finish_reason => 'stop',
        usage => { prompt_tokens => 2, completion_tokens => 20 });

    # ---- metadata --------------------------------------------------------------------------------------------------------

    $play->(<<'X');
send event: sources\ndata: {"sources":[{"title":"T","url":"http://x/"}]}\n\n
send data: {"content":"a","score":1}\n\n
send data: {"tool_calls":[{"name":"f"}]}\n\n
send data: {"type":"ping"}\n\n
send : comment\n\n
send data: {"content":"\\u2028\\n\\"x\\""}\n\n
send data: {"type":"done"}\n\n
send data: {"content":"after the end"}\n\n
X
    @events = well_formed("$sink: metadata", $t->stream('/script?message=a'));
    is join(' ', map { $_->{json}{type} } @events), 'start metadata token metadata metadata token complete', "$sink: metadata in its place";
    is_deeply $events[1]{json}{sources}, [ { title => 'T', url => 'http://x/' } ], "$sink: sources pass";
    is_deeply $events[3]{json}, { type => 'metadata', score => 1 }, "$sink: what stood beside a token";
    is_deeply $events[4]{json}{tool_calls}, [ { name => 'f' } ], "$sink: tool calls pass";
    is $events[5]{json}{content}, "\x{2028}\n\"x\"", "$sink: text is text again";
    is_completion("$sink: no usage", $events[-1], tokens => 2, finish_reason => undef, usage => undef);

    # ---- an error is last, and only once -----------------------------------------------------------------------------------

    $play->("token a\nsend data: {\"error\":{\"message\":\"SECRET\"}}\\n\\n\ntoken b\ndone\n");
    @events = well_formed("$sink: error", $t->stream('/script?message=a'));
    is join(' ', map { $_->{json}{type} } @events), 'start token error', "$sink: the error ends the stream";
    is_deeply [ sort keys %{ $events[-1]{json} } ], [qw(code message retryable type)], "$sink: its members";
    is $events[-1]{json}{code}, 'upstream_error', "$sink: its code";
    unlike $events[-1]{data}, qr/SECRET/, "$sink: what the upstream said stays here";

    # ---- characters the upstream cuts ----------------------------------------------------------------------------------------

    my ($split, $whole) = map { $t->stream("$_?message=a") } qw(/split /whole);
    my @tokens = grep { $_->{json}{type} eq 'token' } well_formed("$sink: byte by byte", $split);
    is scalar(@tokens), 30, "$sink: byte by byte, no token is torn";
    is join('', map { $_->{json}{content} } @tokens), $whole->answer, "$sink: byte by byte, nothing is changed";
    ok !(grep { $_->{data} =~ /\xef\xbf\xbd/ } @tokens), "$sink: byte by byte, nothing was repaired";
    $_->close for $split, $whole;
    # A plain text has no events: each read is one, but never half a character.
    $play->("header Content-Type: text/plain\nsend a\\xf0\\x9f\nwait seen\nsend \\x98\\x80b\n");
    my $stream = $t->stream('/text?message=a');
    is $stream->event_of('token')->{json}{content}, 'a', "$sink: half a character waits for the other";
    $t->upstream->signal('seen');
    is $stream->answer, "\x{1f600}b", "$sink: and comes whole";
    $stream->close;

    # ---- raw ---------------------------------------------------------------------------------------------------------------

    $play->("send event: x\\rdata: 1\\rdata:2\\r\\rdata: {\"content\":\"\\xc3\\xa9\"}\\r\\n\\r\\n\ndone\n");
    my $raw = $t->request('/raw?message=a');
    (my $text = $raw->body) =~ s/$UUID7/ID/g;
    like $text, qr/^retry: 1000\n\nid: ID:1\nevent: x\ndata: 1\ndata: 2\n\nid: ID:2\ndata: \{"content":"\xc3\xa9"\}\n\n/,
        "$sink: raw, the upstream's events with our ids";
    like $text, qr/"type":"?done.*\n\n$/, "$sink: raw, to its own end";
    unlike $text, qr/"(?:start|complete)"|\r/, "$sink: raw, nothing of ours";
    $play->("token a\ncut\n");
    like $t->request('/raw?message=a')->body, qr/"a".*\n\nevent: error\ndata: \{"type":"error","code":"upstream_error"[^\n]*\n\n$/s,
        "$sink: raw, a failure is told";

    # ---- heartbeats --------------------------------------------------------------------------------------------------------

    $play->("token a\nwait on\ntoken b\ndone\n");
    $stream = $t->stream('/beat?message=a');
    $stream->event_of('token');
    my @beats = map { $stream->event } 1 .. 3;
    is join(' ', map { $_->{event} } @beats), 'heartbeat heartbeat heartbeat', "$sink: heartbeats in the silence";
    is scalar(grep { defined $_->{id} } @beats), 0, "$sink: without an id";
    $t->upstream->signal('on');
    well_formed("$sink: heartbeats", $stream);
    $stream->close;
    $play->("token a\nwait on\ndone\n");
    $stream = $t->stream('/rawbeat?message=a');
    ok wait_until(sub { eval { $stream->_more(Time::HiRes::time() + 0.2) }; $stream->so_far =~ /\n\n: heartbeat\n\n/ }, 10),
        "$sink: raw, a heartbeat is a comment";
    $t->upstream->signal('on');
    like $stream->body, qr/done/, "$sink: raw, and the stream goes on";
    $stream->close;
    # One token in 10 ms, and a heartbeat after 20 ms of silence at the earliest: none may come inside of an event.
    well_formed("$sink: a busy stream", $t->stream('/busy?message=a'));

    # ---- the commit --------------------------------------------------------------------------------------------------------

    my $failed = $t->request('/fail?message=a');
    is $failed->status, 502, "$sink: a fast failure has a status";
    is $failed->json->{code}, 'upstream_error', "$sink: and a problem document";
    unlike $failed->body, qr/SECRET/, "$sink: with no word of the upstream's";

    $play->("wait head\nstatus 500\nheaders\nsend x\n");
    $stream = $t->stream('/slow?message=a');
    is $stream->status, 200, "$sink: a slow upstream gets an open stream";
    is $stream->event->{json}{type}, 'start', "$sink: with its start event";
    is $stream->event->{event}, 'heartbeat', "$sink: and heartbeats";
    $t->upstream->signal('head');
    is $stream->next_event->{json}{code}, 'upstream_error', "$sink: the failure is an event then";
    is $stream->next_event, undef, "$sink: the last one";
    $stream->close;

    $play->("headers\nwait token\ntoken a\ndone\n");
    $stream = $t->stream('/patient?message=a');
    is $stream->event->{json}{type}, 'start', "$sink: the upstream's headers commit the response, long before a token";
    $t->upstream->signal('token');
    is $stream->answer, 'a', "$sink: which follows";
    $stream->close;
    $t->expect_log(qr/chatstream:warn.*ended as error \(upstream_error\).*answered 500/, qr/chatstream:warn.*ended as error \(upstream_error\)/);
    $t->check;
}
done_testing();
