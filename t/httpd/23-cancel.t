#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# DELETE cancels: at once, for everybody who reads, as often as somebody asks, and only for whose stream it is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $UNKNOWN = '0191f2a0-1234-7abc-8def-0123456789ab';

my $config = patient() . chat('/chat', 'sse?script=stall')
    . chat('/raw', 'sse?script=stall', 'ChatStreamFormat raw')
    . chat('/silent', 'sse?script=silent', 'ChatStreamCommitAfter 20s')
    . chat('/refused', 'sse?script=stall', 'ChatStreamEnabled Off')
    . chat('/full', 'sse?script=full', 'ChatStreamReplay 4k', 'ChatStreamMaxEvent 16k')
    . chat('/done', 'sse?tokens=2');

my @setups = (
    { name => 'event',  server => { mpm => 'event', children => 2 }, ask => {} },
    { name => 'TLS',    server => { mpm => 'event', tls => 1 }, ask => { tls => 1 } },
    { name => 'HTTP/2', server => { mpm => 'event', http2 => 1 }, ask => { http2 => 1 } },
    { name => 'worker', server => { mpm => 'worker' }, ask => {} },
);

my ($t, $up, $name, %ask);

sub scripts
{
    $up->reset;
    $up->script(stall  => "token one\nstall\n");
    $up->script(silent => "wait never\ntoken one\ndone\n");
    return;
}

sub cancel
{
    my ($path, %options) = @_;
    return $t->request($path, %ask, method => 'DELETE', %options);
}

for my $setup (@setups) {
    $name = $setup->{name};
    %ask = %{ $setup->{ask} };
    $t = ChatStream::Test->new(config => $config, %{ $setup->{server} });
    $up = $t->upstream;

    # ---- with the stream under way, by parameter and by header ---------------------------------------------------------

    for my $how (qw(parameter header JSON form)) {
        scripts();
        my $stream = $t->stream('/chat?message=hi', %ask);
        my $id = $stream->header('x-stream-id');
        is $stream->event_of('token')->{json}{content}, 'one', "$name, $how: a stream";
        my $second = $t->stream('/chat', %ask, headers => { 'Last-Event-ID' => "$id:0" });
        my $third = $t->stream('/chat', headers => { 'Last-Event-ID' => "$id:0" });
        my $answer =
              $how eq 'parameter' ? cancel("/chat?stream_id=$id")
            : $how eq 'header' ? cancel('/chat', headers => { 'X-Stream-Id' => $id })
            : $how eq 'JSON' ? cancel('/chat', json => { stream_id => $id })
            : cancel('/chat', body => "stream_id=$id", headers => { 'Content-Type' => 'application/x-www-form-urlencoded' });
        is $answer->status, 200, "$name, $how: DELETE is taken";
        is_deeply $answer->json, { stream_id => $id, status => 'cancelled' }, "$name, $how: and says what it did";
        $up->wait_for(aborted => 1);
        pass "$name, $how: the upstream is aborted, in the middle of its silence";
        for my $reader ($stream, $second, $third) {
            my $event = $reader->event_of('error');
            is $event->{json}{code}, 'cancelled', "$name, $how: a reader is told";
            ok !$event->{json}{retryable}, "$name, $how: and not to try again";
            is $event->{id}, "$id:3", "$name, $how: as the next event";
            is $reader->next_event, undef, "$name, $how: which is the last";
            ok $reader->complete, "$name, $how: of a proper answer";
            $reader->close;
        }

        # Asking again is asking once.
        is_deeply cancel("/chat?stream_id=$id")->json, { stream_id => $id, status => 'cancelled' }, "$name, $how: again, and the same"
            for 1 .. 2;
        is $t->request('/chat', headers => { 'Last-Event-ID' => "$id:3" })->status, 204, "$name, $how: who was told needs no more";
        my $late = $t->stream('/chat', headers => { 'Last-Event-ID' => "$id:2" });
        is $late->next_event->{json}{code}, 'cancelled', "$name, $how: who was not is told when it comes back";
        is $up->count('requests'), 1, "$name, $how: nobody asked again";
        is $t->health->{streams}{active}, 0, "$name, $how: and no stream is left";
    }

    # ---- before the response is committed: a DELETE needs the id, which only a key's owner can learn -------------------------

    scripts();
    my @key = ('Idempotency-Key' => "early-$name");
    my $first = $t->open('/silent?message=hi', headers => \@key);
    $up->wait_for(requests => 1);
    # /chat is another location, so this is a stream of its own with its own commit; it tells nothing of the first.
    my $other = $t->stream('/chat?message=hi', %ask, headers => \@key);
    is $other->event_of('token')->{json}{content}, 'one', "$name: another location's stream";
    my $other_id = $other->header('x-stream-id');
    $up->wait_for(requests => 2);
    is(cancel("/silent?stream_id=$other_id")->json->{status}, 'cancelled', "$name: any location of the server cancels");
    is $other->event_of('error')->{json}{code}, 'cancelled', "$name: and it is the one that was named";
    my ($request) = grep { $_->{query} =~ /silent/ } $up->requests;
    my $silent_id = $request->{headers}{'x-request-id'};
    like $silent_id, qr/^[0-9a-f-]{36}$/, "$name: the upstream knows the id of a stream that is not committed";
    is(cancel("/silent?stream_id=$silent_id")->status, 200, "$name: DELETE before anything was said");
    $up->wait_for(aborted => 2);
    pass "$name: aborts the upstream";
    is $first->status, 200, "$name: a cancel is no failure of the server";
    is $first->event_of('error')->{json}{code}, 'cancelled', "$name: and its reader is told";
    ok $first->complete, "$name: properly";
    $first->close;

    # ---- after the end -----------------------------------------------------------------------------------------------------

    scripts();
    my $whole = $t->request('/done?message=hi', %ask);
    my $id = $whole->header('x-stream-id');
    is_deeply cancel("/done?stream_id=$id")->json, { stream_id => $id, status => 'completed' },
        "$name: what has ended stays as it ended";
    is(($t->stream('/done', headers => { 'Last-Event-ID' => "$id:3" })->events)[-1]{json}{type}, 'complete',
        "$name: also for who reads it later");

    # ---- mistakes ------------------------------------------------------------------------------------------------------------

    my $running = $t->stream('/chat?message=hi', %ask);
    $id = $running->header('x-stream-id');
    $running->event_of('token');
    for my $wrong ('/chat', '/chat?stream_id=', '/chat?stream_id=rubbish', "/chat?stream_id=$id:2", "/chat?stream_id=${id}0") {
        my $answer = cancel($wrong);
        is $answer->status, 400, "$name: DELETE $wrong";
        is $answer->json->{code}, 'bad_request', "$name: is a mistake";
    }
    is(cancel("/chat?stream_id=$UNKNOWN")->json->{code}, 'gone', "$name: an unknown stream is gone");
    is $t->request("/chat?stream_id=$id", method => 'DELETE', from => '127.0.0.2')->status, 410,
        "$name: as is another user's";
    is $up->count('aborted'), 0, "$name: none of this cancelled anything";
    is(cancel("/refused?stream_id=$id")->json->{status}, 'cancelled', "$name: cancelling works where streaming is off");
    is $running->event_of('error')->{json}{code}, 'cancelled', "$name: this did";
    $running->close;

    # ---- a reader that does not read, an upstream that is held back -----------------------------------------------------------

    scripts();
    $up->script(full => "repeat 700\ntoken " . 'x' x 4000 . "\nend\nstall\n");
    my $stuck = $t->stream('/full?message=hi', %ask, receive_buffer => 4096);
    $id = $stuck->header('x-stream-id');
    $stuck->event_of('token');
    is(cancel("/full?stream_id=$id")->status, 200, "$name: DELETE of a stream whose reader stands still");
    $up->wait_for(aborted => 1);
    pass "$name: aborts the upstream all the same";
    is $stuck->event_of('error')->{json}{code}, 'cancelled', "$name: and when the reader goes on, it is told";
    $stuck->close;

    # ---- raw ---------------------------------------------------------------------------------------------------------------

    scripts();
    my $raw = $t->stream('/raw?message=hi', %ask);
    ok $raw->next_event, "$name, raw: a stream";
    is(cancel('/raw', headers => { 'X-Stream-Id' => $raw->header('x-stream-id') })->status, 200, "$name, raw: cancelled");
    my $event = $raw->next_event;
    is "$event->{event} $event->{json}{code}", 'error cancelled', "$name, raw: and told";
    is $raw->next_event, undef, "$name, raw: at its end";
    $raw->close;

    $t->allow_log(qr/ended as cancelled/);
    $t->check;
}

# ---- while connecting: an upstream that never takes the connection -----------------------------------------------------------

{
    my $port = free_port();
    require IO::Socket::INET;
    # A backlog of one that is never accepted from, filled up: further connections hang in SYN.
    my $deaf = IO::Socket::INET->new(Listen => 0, LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', ReuseAddr => 1);
    my @fill = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0) } 1 .. 8;
    $t = ChatStream::Test->new(
        config => patient() . chat('/deaf', "http://127.0.0.1:$port/", 'ChatStreamCommitAfter 10ms'));
    my $stream = $t->stream('/deaf?message=hi');
    my $id = $stream->header('x-stream-id');
    is $stream->next_event->{json}{type}, 'start', 'a stream that is still connecting';
    is $t->request("/deaf?stream_id=$id", method => 'DELETE')->json->{status}, 'cancelled', 'can be cancelled';
    is $stream->next_event->{json}{code}, 'cancelled', 'and tells';
    $t->done;
}
