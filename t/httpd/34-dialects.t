#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The dialects end to end: text, usage, finish reason, metadata; and [DONE] ends the client's stream even while the upstream
# keeps its connection open. On both sinks, streamed and as one document.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output);

my %scripts = (
    sse => <<'END',
send data: {"type":"start","model":"m"}\n\n
send data: {"content":"Grüß"}\n\n
send data: {"token":" dich"}\n\n
send data: plain\n\n
send event: sources\ndata: {"type":"sources","documents":[{"title":"T"}]}\n\n
send data: {"delta":{"content":" \\u00e4\\ud83d\\ude00"}}\n\n
send data: {"type":"done","finish_reason":"length","usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n
END
    openai => <<'END',
send data: {"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n
send data: {"id":"c1","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n
send data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Grüß"},"finish_reason":null}]}\n\n
send : a comment\n\n
send data: {"id":"c1","choices":[{"index":0,"delta":{"content":" dich\\n\\"😀\\""}}]}\n\n
send data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n
send data: {"id":"c1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n
send data: [DONE]\n\n
END
    text => "send Grüß \nsend \\xf0\\x9f\nsend \\x98\\x80 dich\\r\\n\nsend data: no framing\\n\\n\n",
);
my %wanted = (
    sse    => { text => "Grüß dichplain ä😀", reason => 'length', usage => [ 3, 5 ], metadata => [ '"m"', 'sources' ] },
    openai => { text => qq(Grüß dich\n"😀"), reason => 'stop', usage => [ 7, 2 ], metadata => [ 'reasoning_content' ] },
    text   => { text => "Grüß 😀 dich\r\ndata: no framing\n\n", reason => undef, usage => undef, metadata => [] },
);

sub bytes { my ($text) = @_; utf8::encode($text); return $text }

sub shown { my ($value) = @_; return JSON::PP->new->canonical->ascii->allow_nonref->encode($value) }

sub config
{
    return "ChatStreamModel m\n" . join '', map {
        my $dialect = $_;
        map {
            my ($path, $more, @directives) = @$_;
            chat("/$dialect$path", 'sse', "ChatStreamUpstream \"\${UPSTREAM}/$dialect?script=$dialect$more\" dialect=$dialect", @directives)
        } [ '', '' ], [ '/split', '&split=1' ], [ '/complete', '', 'SetHandler chatstream-complete' ]
    } sort keys %scripts;
}

sub usage { my ($usage) = @_; return $usage && [ @$usage{qw(prompt_tokens completion_tokens)} ] }

sub test_stream
{
    my ($t, $dialect, $path) = @_;
    my $wanted = $wanted{$dialect};
    my @events = $t->request("/$dialect$path?message=hi", timeout => 30)->events;
    my ($end, $start) = (pop @events, shift @events);
    my $text = join '', map { $_->{json}{type} eq 'token' ? $_->{json}{content} : () } @events;
    is shown($text), shown($wanted->{text}), "$dialect$path: the text";
    is $start->{json}{type}, 'start', "$dialect$path: start";
    is $end->{json}{type}, 'complete', "$dialect$path: complete" or diag $end->{data};
    is $end->{json}{finish_reason}, $wanted->{reason}, "$dialect$path: finish reason";
    is shown(usage($end->{json}{usage})), shown($wanted->{usage}), "$dialect$path: usage";
    my @metadata = grep { $_->{json}{type} eq 'metadata' } @events;
    is scalar @metadata, @{ $wanted->{metadata} }, "$dialect$path: as much metadata" or diag map { "$_->{data}\n" } @metadata;
    like $metadata[$_]{data}, qr/\Q$wanted->{metadata}[$_]\E/, "$dialect$path: metadata $_" for 0 .. $#metadata;
    is $end->{json}{metrics}{tokens}, scalar(grep { $_->{json}{type} eq 'token' } @events), "$dialect$path: tokens are counted";
    return;
}

sub test_document
{
    my ($t, $dialect) = @_;
    my $wanted = $wanted{$dialect};
    my $json = $t->request("/$dialect/complete", json => { message => 'hi' })->json;
    is shown($json->{content}), shown($wanted->{text}), "$dialect, document: the text";
    is $json->{finish_reason}, $wanted->{reason}, "$dialect, document: finish reason";
    is shown(usage($json->{usage})), shown($wanted->{usage}), "$dialect, document: usage";
    is scalar @{ $json->{metadata} }, @{ $wanted->{metadata} }, "$dialect, document: metadata";
    return;
}

for my $mpm (qw(event worker)) {
    my $t = ChatStream::Test->new(mpm => $mpm, config => config() . chat('/open', 'sse',
        'ChatStreamUpstream "${UPSTREAM}/openai?script=open" dialect=openai', 'ChatStreamTimeout 60 idle=50')
        . chat('/raw', 'sse', 'ChatStreamUpstream "${UPSTREAM}/openai?script=open" dialect=openai', 'ChatStreamFormat raw',
            'ChatStreamTimeout 60 idle=50'));
    for my $dialect (sort keys %scripts) {
        $t->upstream->script($dialect, bytes($scripts{$dialect}));
        test_stream($t, $dialect, $_) for '', '/split';
        test_document($t, $dialect);
    }

    # The upstream says [DONE] and nothing more, not even the end of its response.
    $t->upstream->script(open => "token one\nwait go\nsend data: [DONE]\\n\\n\nsend data: {\"choices\":[{\"delta\":{\"content\":\"late\"}}]}\\n\\n\nstall\n");
    for my $path ('/open', '/raw') {
        my $aborted = $t->upstream->count('aborted');
        my $stream = $t->stream("$path?message=hi");
        my @events = $stream->event;
        push @events, $stream->event until $events[-1]{data} =~ /one/;
        $t->upstream->signal('go');
        push @events, $stream->events;
        ok $stream->complete, "$path: the stream is over, though the upstream's response is not";
        like $events[-1]{data}, $path eq '/raw' ? qr/^\[DONE\]$/ : qr/"type":"complete"/, "$path: [DONE] is the end";
        unlike $stream->so_far, qr/late/, "$path: nothing after [DONE] counts";
        $t->upstream->wait_for(aborted => $aborted + 1);
        pass "$path: and the upstream is let go soon";
    }
    $t->check;
}
done_testing;
