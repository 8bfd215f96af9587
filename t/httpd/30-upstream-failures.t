#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Every way an upstream can fail gives the documented status, or one error event, and a log line that says why; nothing the
# upstream said about it and none of our own headers for it comes out. On both sinks.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use POSIX qw(strftime);
use Time::HiRes qw(time);

my $DETAIL = '{"error":{"message":"SECRET-upstream-detail"}}';
my $HEAD = 'raw HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n';
my $in_a_minute = strftime '%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 60);

# Before anything of an answer came: the status, the code, what the log says; Retry-After.
my @refusals = (
    [ 'closes before headers', "close\n", 502, 'upstream_error', qr/Server returned nothing/ ],
    [ 'resets before headers', "cut\n", 502, 'upstream_error', qr/Failure when receiving data|returned nothing/ ],
    [ 'closes in the head', "raw HTTP/1.1 200 OK\\r\\nContent-Ty\nclose\n", 502, 'upstream_error', qr/\w/ ],
    [ 'says only 1xx', "raw HTTP/1.1 103 Early Hints\\r\\nRetry-After: 9\\r\\n\\r\\n\nclose\n", 502, 'upstream_error', qr/\w/ ],
    [ 'is no HTTP server', "raw SSH-2.0-OpenSSH_9.2\\r\\n\nclose\n", 502, 'upstream_error', qr/\w/ ],
    [ 'sends binary', "raw \\x00\\xff\\xfe\\x01\\x02\\x03\\n\\n\\x00\nclose\n", 502, 'upstream_error', qr/\w/ ],
    [ 'switches protocols', "raw HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: x\\r\\n\\r\\ndata: hi\\n\\n\nclose\n",
        502, 'upstream_error', qr/answered 101/ ],
    [ 'redirects', "status 302\nheader Location: \$UPSTREAM/sse?tokens=1\nsend $DETAIL\n", 502, 'upstream_error', qr/answered 302/ ],
    (map { [ "answers $_", "status $_\nheader Content-Type: application/json\nsend $DETAIL\n", 502, 'upstream_error',
        qr/answered $_\b/ ] } 400, 401, 403, 404, 408, 422, 500, 501, 502, 504, 529),
    [ 'answers 503', "status 503\nheader Retry-After: 3\nsend $DETAIL\n", 502, 'upstream_error', qr/answered 503/, 3, 3 ],
    [ 'answers 429', "status 429\nsend $DETAIL\n", 429, 'rate_limited', qr/answered 429/ ],
    [ 'answers 429 with seconds', "status 429\nheader Retry-After: 7\nsend $DETAIL\n", 429, 'rate_limited', qr/answered 429/, 7, 7 ],
    [ 'answers 429 with a date', "status 429\nheader Retry-After: $in_a_minute\nsend $DETAIL\n", 429, 'rate_limited',
        qr/answered 429/, 1, 60 ],
    [ 'answers 429 with a date long past', "status 429\nheader Retry-After: Fri, 01 Jan 2010 00:00:00 GMT\n", 429,
        'rate_limited', qr/answered 429/ ],
    [ 'answers 429 with nonsense', "status 429\nheader Retry-After: soon\n", 429, 'rate_limited', qr/answered 429/ ],
    [ 'stalls before headers', "stall\n", 504, 'upstream_timeout', qr/no response headers in time/, undef, undef, '30 headers=0.2' ],
    [ 'never answers', "stall\n", 504, 'timeout', qr/total time is over/, undef, undef, '0.2 headers=30' ],
);

# After its headers, which the client sees before the rest is said: answer so far, code, log, retryable; directives.
my @interruptions = (
    [ 'closes after headers', "close\n", '', 'upstream_error', qr/\w/, 1 ],
    [ 'closes between events', "token a\nwait GO\nclose\n", 'a', 'upstream_error', qr/\w/, 1 ],
    [ 'resets between events', "token a\nwait GO\ncut\n", 'a', 'upstream_error', qr/\w/, 1 ],
    [ 'closes in mid-event', "token a\nwait GO\nsend data: {\"content\":\"b\nclose\n", 'a', 'upstream_error', qr/\w/, 1 ],
    [ 'ends in mid-event', "token a\nwait GO\nsend data: {\"content\":\"b\n", 'a', 'upstream_error', qr/middle of an event/, 1 ],
    [ 'ends in mid-character', "send \\xe2\\x82\\xac\\xe2\\x82\n", "\x{20ac}", 'upstream_error', qr/middle of a character/, 1,
        'dialect=text' ],
    [ 'is shorter than it said', "wait GO\nclose\n", '', 'upstream_error', qr/\w/, 1, '', "length 100\n" ],
    [ 'says nothing', "\n", '', 'upstream_error', qr/answer was empty/, 1 ],
    [ 'sends HTML', "send <html><body>SECRET-upstream-detail</body></html>\\n\n", '', 'upstream_error', qr/answer was empty/, 1 ],
    [ 'sends a JSON document', "send {\"content\":\"SECRET-upstream-detail\"}\n", '', 'upstream_error', qr/answer was empty/, 1 ],
    [ 'sends only comments', "send : SECRET-upstream-detail\\n\\n\n", '', 'upstream_error', qr/answer was empty/, 1 ],
    [ 'sends garbage', "send \\x00\\x01\\xff\\n\\n\\xfe\\r\\r\\n\\x80\n", '', 'upstream_error', qr/answer was empty/, 1 ],
    [ 'reports its error', "token a\nwait GO\nsend data: $DETAIL\\n\\n\nstall\n", 'a', 'upstream_error', qr/upstream reported an error/, 0 ],
    [ 'reports overload', "token a\nwait GO\nsend data: {\"error\":{\"type\":\"overloaded_error\",\"message\":\"SECRET-upstream-detail\"}}"
        . "\\n\\n\nstall\n", 'a', 'upstream_error', qr/upstream is overloaded/, 1 ],
    [ 'talks broken openai', "send data: {\"SECRET-upstream-detail\\n\\n\nstall\n", '', 'upstream_error', qr/malformed/, 0,
        'dialect=openai' ],
    [ 'sends a large event', "token a\nwait GO\nsend data: \nfill 5000 y\nsend \\n\\n\nstall\n", 'a', 'too_large', qr/larger/, 0 ],
    [ 'sends a large answer', "token a\nwait GO\nrepeat 10\nsend data: \nfill 1000 y\nsend \\n\\n\nend\nstall\n", undef, 'too_large',
        qr/larger/, 0 ],
    [ 'never ends its line', "token a\nwait GO\nfill 100000000 y\nstall\n", 'a', 'too_large', qr/larger/, 0 ],
    [ 'stalls after headers', "stall\n", '', 'upstream_timeout', qr/no first token in time/, 1, '', '', '30 first-token=0.2' ],
    [ 'stalls in mid-stream', "token a\nstall\n", 'a', 'upstream_timeout', qr/no further token in time/, 1, '', '', '30 idle=0.2' ],
    [ 'never gets done', "token a\nstall\n", 'a', 'timeout', qr/total time is over/, 1, '', '', '0.2 idle=30' ],
    [ 'drips comments', "repeat 1000\nsend : ping\\n\\n\nsleep 20\nend\n", '', 'upstream_timeout', qr/no first token/, 1,
        '', '', '60 first-token=0.3' ],
    [ 'drips pings', "token a\nrepeat 1000\nsend event: ping\\ndata: {}\\n\\n\nsleep 20\nend\n", 'a', 'upstream_timeout',
        qr/no further token/, 1, '', '', '60 idle=0.3' ],
    [ 'drips heartbeats', "token a\nrepeat 1000\nsend data: {\"type\":\"heartbeat\"}\\n\\n\nsleep 20\nend\n", 'a', 'upstream_timeout',
        qr/no further token/, 1, '', '', '60 idle=0.3' ],
    [ 'drips half events', "token a\nsend data: \nrepeat 1000\nsend x\nsleep 20\nend\n", 'a', 'upstream_timeout',
        qr/no further token/, 1, '', '', '60 idle=0.3' ],
);

# The response was committed by the clock, the upstream's refusal comes later: the code and whether to try again.
my @late = (
    [ 'late 429', "status 429\nheader Retry-After: 7\nsend $DETAIL\n", 'upstream_error', qr/answered 429/, 1 ],
    [ 'late 503', "status 503\nsend $DETAIL\n", 'upstream_error', qr/answered 503/, 1 ],
    [ 'late 500', "status 500\nsend $DETAIL\n", 'upstream_error', qr/answered 500/, 1 ],
    [ 'late 404', "status 404\nsend $DETAIL\n", 'upstream_error', qr/answered 404/, 0 ],
    [ 'late close', "close\n", 'upstream_error', qr/Server returned nothing/, 1 ],
    [ 'late garbage', "raw garbage\\r\\n\nclose\n", 'upstream_error', qr/\w/, 1 ],
    [ 'late stall', "stall\n", 'upstream_timeout', qr/no response headers in time/, 1 ],
);

sub slug { my ($name) = @_; return $name =~ s/\W+/-/gr }

sub rss { my ($pid) = @_; return slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m ? $1 : die }

sub location
{
    my ($t, $prefix, $case, $script, $timeout, $commit, $dialect) = @_;
    my $name = "$prefix-" . slug($case->[0]);
    my $upstream = $t->upstream->url;
    $t->upstream->script($name, $script =~ s/GO\b/$name/gr =~ s/\$UPSTREAM/$upstream/gr);
    return join '', map {
        chat("/$name$_->[0]", "sse?script=$name", "ChatStreamUpstream \"\${UPSTREAM}/sse?script=$name\" $dialect",
            "ChatStreamTimeout $timeout", "ChatStreamCommitAfter $commit", $_->[1])
    } [ '', '' ], [ '/complete', 'SetHandler chatstream-complete' ];
}

sub problem_is
{
    my ($answer, $status, $code, $name) = @_;
    my $json = eval { $answer->json } || {};
    is_deeply [ $answer->status, $answer->header('content-type'), @$json{qw(status code)} ],
        [ $status, 'application/problem+json', $status, $code ], "$name: $status $code" or diag $answer->so_far;
    return;
}

# The log line of this stream, and not of another.
sub logged
{
    my ($t, $id, $state, $code, $reason, $name) = @_;
    my $upstream = $t->upstream->url . '/sse';
    $t->wait_log(qr/stream $id ended/);
    my ($line, @more) = $t->error_log =~ /^.*stream $id ended.*$/mg;
    like $line // '', qr/:warn\] .*ended as $state \($code\): upstream \Q$upstream\E: .*$reason/, "$name: the log has upstream and reason";
    is scalar @more, 0, "$name: it is logged once";
    return;
}

sub test_refusals
{
    my ($t, $suffix) = @_;
    for my $case (@refusals) {
        my ($name, undef, $status, $code, $reason, $least, $most, $timeout) = @$case;
        my $begun = time;
        my $answer = $t->request("/before-" . slug($name) . "$suffix?message=hi");
        problem_is($answer, $status, $code, $name);
        my $after = $answer->header('retry-after');
        if ($least) { ok defined $after && $after >= $least && $after <= $most, "$name: Retry-After" or diag $after // 'none' }
        else { is $after, undef, "$name: no Retry-After" }
        cmp_ok time - $begun, '>=', 0.2, "$name: not before its clock" if $timeout;
        logged($t, $answer->header('x-stream-id'), $code eq 'timeout' ? 'timeout' : 'error', $code, $reason, $name);
    }
    return;
}

sub test_interruptions
{
    my ($t) = @_;
    for my $case (@interruptions) {
        my ($name, $script, $answer, $code, $reason, $retryable) = @$case;
        my $go = "after-" . slug($name);
        my ($pid) = $t->children;
        my $before = rss($pid);
        my $begun = time;
        my $stream = $t->stream("/$go?message=hi", timeout => 20);
        is $stream->status, 200, "$name: the headers are passed on at once";
        my @events = grep { $_->{event} ne 'heartbeat' } $stream->next_event;
        is $events[0]{json}{type}, 'start', "$name: it has begun";
        $t->upstream->signal("$go-begin");
        push @events, $stream->next_event if $script =~ /^token a$/m;
        $t->upstream->signal($go);
        push @events, grep { $_->{event} ne 'heartbeat' } $stream->events;
        my $text = join '', map { $_->{json}{type} eq 'token' ? $_->{json}{content} : '' } @events;
        is $text, $answer, "$name: what came before is delivered" if defined $answer;
        cmp_ok length $text, '<=', 4000, "$name: within ChatStreamMaxAnswer";
        my @ends = grep { $_->{json}{type} =~ /^(?:complete|error)$/ } @events;
        is scalar @ends, 1, "$name: one end";
        is_deeply { map { $_ => $events[-1]{json}{$_} } qw(type code retryable) },
            { type => 'error', code => $code, retryable => $retryable ? JSON::PP::true : JSON::PP::false },
            "$name: $code" or diag $events[-1]{data};
        ok $stream->complete, "$name: the response ends in order";
        my $id = $stream->header('x-stream-id');
        is $events[-1]{id}, "$id:" . @events, "$name: ids without a gap";
        logged($t, $id, $code eq 'timeout' ? 'timeout' : 'error', $code, $reason, $name);
        cmp_ok time - $begun, '<', 15, "$name: the drip did not feed the clock" if $script =~ /sleep/;
        cmp_ok rss($pid) - $before, '<', 20_000, "$name: memory is bounded" if $script =~ /fill 1000000/;
    }
    return;
}

sub test_late
{
    my ($t) = @_;
    for my $case (@late) {
        my ($name, undef, $code, $reason, $retryable) = @$case;
        my $go = 'late-' . slug($name);
        my $stream = $t->stream("/$go?message=hi");
        is $stream->status, 200, "$name: committed while the upstream thinks";
        is $stream->next_event->{json}{type}, 'start', "$name: and begun";
        $t->upstream->signal($go);
        my @events = $stream->events;
        is scalar @events, 1, "$name: one event more";
        is_deeply { map { $_ => $events[0]{json}{$_} } qw(type code retryable) },
            { type => 'error', code => $code, retryable => $retryable ? JSON::PP::true : JSON::PP::false }, "$name: $code"
            or diag $events[0]{data};
        logged($t, $stream->header('x-stream-id'), 'error', qr/\w+/, $reason, $name);
    }
    return;
}

# The document has no beginning that could be committed: all of it is a status.
sub test_documents
{
    my ($t) = @_;
    for my $case (@interruptions) {
        my ($name, undef, undef, $code) = @$case;
        next if $name =~ /drips|never ends/;
        $t->upstream->signal("after-" . slug($name) . $_) for '', '-begin';
        my $answer = $t->request('/after-' . slug($name) . '/complete?message=hi');
        problem_is($answer, $code =~ /timeout/ ? 504 : 502, $code, "document, $name");
    }
    return;
}

for my $mpm (qw(event worker)) {
    my $t = ChatStream::Test->new(mpm => $mpm, start => 0);
    my $config = join "\n", 'ChatStreamUpstreamHeader X-Key SECRET-upstream-key', 'ChatStreamMaxEvent 4000', 'ChatStreamMaxAnswer 4000',
        'ChatStreamModel m', 'ChatStreamHeartbeat 20';
    $config .= "\n";
    $config .= location($t, 'before', $_, $_->[1], $_->[7] || 60, 60, '') for @refusals;
    $config .= location($t, 'after', $_, ($_->[7] || '') . "headers\nwait GO-begin\n$_->[1]", $_->[8] || '30', 60, $_->[6] || '') for @interruptions;
    $config .= location($t, 'late', $_, "wait GO\n$_->[1]", '30 headers=1', '1ms', '') for @late;
    $t->httpd->{config} = $config . chat('/refused', 'http://127.0.0.1:' . free_port() . '/sse?key=SECRET-upstream-query',
        'ChatStreamCommitAfter 60') . chat('/raw', 'sse?script=after-drips-pings-raw', 'ChatStreamFormat raw',
        'ChatStreamTimeout 60 first-token=0.3');
    $t->upstream->script('after-drips-pings-raw', "repeat 1000\nsend event: ping\\ndata: {}\\n\\n\nsleep 20\nend\n");
    $t->start;
    $t->allow_log(qr/chatstream: stream \S+ ended as/);

    my $refused = $t->request('/refused?message=hi');
    problem_is($refused, 502, 'upstream_error', 'refused');
    ok $t->wait_log(qr{upstream http://127\.0\.0\.1:\d+/sse: Couldn't connect to server}), 'refused: the log says so';

    test_refusals($t, '');
    is $t->upstream->count('requests'), @refusals, 'each was asked once';
    test_refusals($t, '/complete') if $mpm eq 'event';
    test_interruptions($t);
    test_late($t);
    test_documents($t);

    # In format raw the client gets the pings, and they feed no clock either.
    my $raw = $t->stream('/raw?message=hi', timeout => 20);
    is $raw->event->{event}, 'ping', 'raw: a ping is passed on';
    my @rest = $raw->events;
    is $rest[-1]{event}, 'error', 'raw: it is no token';
    is $rest[-1]{json}{code}, 'upstream_timeout', 'raw: so the first token is late';
    cmp_ok scalar @rest, '<', 900, 'raw: long before the last ping';

    unlike $t->error_log, qr/SECRET|script=|\?/, 'the log keeps what is secret';
    unlike $t->access_log, qr/SECRET/, 'so does the access log';
    $t->check;
}
done_testing;
