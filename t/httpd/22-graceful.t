#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Restarts: graceful ones let streams run on in the old child and keep what is kept; the others end every stream with a word.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Time::HiRes qw(time);

my $SCRIPT = "token one\ntoken two\nwait a\ntoken three\nwait b\ntoken four\ndone\n";

sub numbers { return join ' ', map { ($_->{id} // '-') =~ /:(\d+)$/ ? $1 : '-' } @_ }

my %locations = (
    '/chat'   => [],
    '/detach' => ['ChatStreamOnDisconnect detach'],
    '/grace'  => ['ChatStreamOnDisconnect abort 60s'],
    '/late'   => [ 'ChatStreamOnDisconnect detach', 'ChatStreamUpstream "${UPSTREAM}/sse?script=late"' ],
);

sub server
{
    my (%options) = @_;
    my $t = ChatStream::Test->new(
        config => join('', patient(), map { chat($_, 'sse?script=two', @{ $locations{$_} }) } sort keys %locations), %options,
    );
    $t->upstream->script(two => $SCRIPT);
    return $t;
}

sub resume { my ($t, $path, $id, @rest) = @_; return $t->stream($path, headers => { 'Last-Event-ID' => $id }, @rest) }

# The one child of the new generation.
sub new_child
{
    my ($t, @old) = @_;
    my %old = map { $_ => 1 } @old;
    return wait_until(sub { (grep { !$old{$_} } $t->children)[0] }, 10);
}

# ---- graceful (issue item 5, second half) --------------------------------------------------------------------------------

{
    my $t = server(tls => 1);
    my $up = $t->upstream;
    my ($old) = $t->children;

    my $kept = $t->stream('/detach?message=hi');
    $up->signal($_) for qw(a b);
    my $kept_id = $kept->header('x-stream-id');
    is numbers($kept->events), '1 2 3 4 5 6', 'a stream that ended before the restart';
    $kept->close;
    $up->reset;
    $up->script(two => $SCRIPT);
    $up->script(late => "token one\nwait c\ntoken two\ndone\n");

    my %stream = (
        staying => $t->stream('/chat?message=hi'),
        tls     => $t->stream('/chat?message=hi', tls => 1),
        moving  => $t->stream('/grace?message=hi'),
        alone   => $t->stream('/detach?message=hi'),
        gone    => $t->stream('/detach?message=hi'),
        late    => $t->stream('/late?message=hi'),
    );
    my %id;
    for my $name (qw(staying tls moving alone gone)) {
        $id{$name} = $stream{$name}->header('x-stream-id');
        is numbers(map { $stream{$name}->next_event } 1 .. 3), '1 2 3', "$name: the beginning";
    }
    $id{late} = $stream{late}->header('x-stream-id');
    $stream{late}->event_of('token');
    $stream{$_}->abort for qw(alone gone late);
    my $health = $t->health;
    is $health->{streams}{active}, 6, 'six streams are active';
    is $health->{streams}{kept}, 1, 'one is kept';

    $t->graceful;
    my $new = new_child($t, $old);
    isnt $new, $old, 'a new child has come';
    ok kill(0, $old), 'the old one is still there';
    $health = $t->health;
    is $health->{streams}{active}, 6, 'the new child knows the streams of the old one';
    is $health->{streams}{kept}, 1, 'and the one that was kept';
    is numbers(resume($t, '/detach', "$kept_id:2")->events), '3 4 5 6', 'which can be resumed';

    $stream{moving}->abort;
    $stream{moving} = resume($t, '/grace', "$id{moving}:2");
    is $t->child_of($stream{moving}), $new, 'a client that was cut off comes to the new child';
    is $stream{moving}->next_event->{json}{content}, 'two', 'and resumes its stream';
    $up->signal('a');
    is $stream{$_}->next_event->{json}{content}, 'three', "$_: the stream goes on" for qw(staying tls moving);
    is resume($t, '/detach', "$id{alone}:3")->next_event->{json}{content}, 'three', 'also one that nobody read';
    is $t->request("/chat?stream_id=$id{gone}", method => 'DELETE')->status, 200, 'DELETE reaches the old child';
    $up->wait_for(aborted => 1);
    pass 'which aborts the upstream';
    my $gone = resume($t, '/detach', "$id{gone}:4");
    is $gone->next_event->{json}{code}, 'cancelled', 'and tells it';
    $gone->close;

    $up->signal('b');
    $up->wait_for(finished => 4);
    for my $name (qw(staying tls moving)) {
        is numbers($stream{$name}->events), '5 6', "$name: to its end";
        ok $stream{$name}->complete, "$name: properly";
        $stream{$name}->close;
    }

    # No connection is left, so the MPM ends the old child; one stream without a reader is still under way in it.
    ok wait_until(sub { (slurp("/proc/$old/status") // '') !~ /^Threads:\s+(\d+)/m || $1 <= 5 }, 30), 'the MPM takes its threads down';
    $up->signal('c');
    $up->wait_for(finished => 5);
    pass 'the last stream is generated to its end';
    is numbers(resume($t, '/late', "$id{late}:2")->events), '3 4', 'and can be read';
    ok wait_until(sub { !grep { $_ == $old } $t->children }, 20), 'then the old child goes';
    is numbers(resume($t, '/detach', "$id{alone}:3")->events), '4 5 6', 'and what it streamed can still be read';
    is $t->request('/chat', headers => { 'Last-Event-ID' => "$id{staying}:6" })->status, 204, 'or needs not to be';
    is $up->count('requests'), 6, 'for six requests upstream';

    # The machinery of the next generations works as well, again and again.
    for my $round (1 .. 3) {
        $t->graceful;
        is $t->stream('/chat?message=hi')->answer, 'onetwothreefour', "after another one, $round: a stream";
    }
    $t->allow_log(qr/ended as cancelled/);
    $t->check;
}

# ---- graceful-stop -------------------------------------------------------------------------------------------------------

for my $mpm (qw(event worker)) {
    my $t = server(mpm => $mpm);
    my $up = $t->upstream;
    my $stream = $t->stream('/chat?message=hi');
    is numbers(map { $stream->next_event } 1 .. 3), '1 2 3', "graceful-stop, $mpm: a stream";
    my $alone = $t->stream('/detach?message=hi');
    $alone->event_of('token');
    $alone->abort;
    $t->graceful_stop;
    ok wait_until(sub { !eval { $t->open('/chat?message=hi')->close; 1 } }, 10), "graceful-stop, $mpm: nobody new is let in";
    $up->signal('a');
    is $stream->next_event->{json}{content}, 'three', "graceful-stop, $mpm: the stream goes on";
    $up->signal('b');
    is numbers($stream->events), '5 6', "graceful-stop, $mpm: to its end";
    ok $stream->complete, "graceful-stop, $mpm: which is a proper one";
    $stream->close;
    $up->wait_for(finished => 2);
    pass "graceful-stop, $mpm: and the detached one is generated to its end";
    ok wait_until(sub { !$t->httpd->alive }, 30), "graceful-stop, $mpm: then httpd ends";
    $t->check;
}

# ---- stop and restart ----------------------------------------------------------------------------------------------------

# What a reader gets when its server is stopped. The suspended sink is told. The MPMs close the sockets of their threads before
# anybody can say a word, so the client of a blocking sink sees a cut; when it comes back after a restart, it is told.
my @setups = (
    { name => 'event',   told => 1, server => { mpm => 'event', tls => 1 }, ask => [ {}, { tls => 1 } ] },
    { name => 'HTTP/2',  server => { mpm => 'event', http2 => 1 }, ask => [ { http2 => 1 } ] },
    { name => 'worker',  server => { mpm => 'worker', tls => 1 }, ask => [ {}, { tls => 1 } ] },
    { name => 'prefork', server => { mpm => 'prefork', children => 12 }, ask => [ {} ] },
);
for my $how (qw(stop restart)) {
    for my $setup (@setups) {
        my $name = "$how, $setup->{name}";
        my $t = server(%{ $setup->{server} });
        my @ask = @{ $setup->{ask} };
        my @streams = map { $t->stream('/chat?message=hi', %{ $ask[ $_ % @ask ] }) } 0 .. 9;
        $_->next_event for map { ($_) x 3 } @streams;
        my @ids = map { $_->header('x-stream-id') } @streams;
        my $began = time;
        ok +($how eq 'stop' ? $t->stop : $t->restart), "$name: is done";
        my $took = time - $began;
        cmp_ok $took, '<', 20, "$name: in a few seconds";
        diag sprintf '%s with ten open streams took %.1f s', $name, $took;
        unlike $t->error_log, qr/AH00045|AH00046|AH00047|SIGKILL/, "$name: nobody had to be killed";
        my @last = map { my @rest = $_->events; $rest[-1] } @streams;
        if ($setup->{told}) {
            is join(' ', map { $_ ? $_->{json}{code} // '?' : 'nothing' } @last), join(' ', ('shutting_down') x 10),
                "$name: every reader is told";
            is scalar(grep { $_->{json}{retryable} } @last), 10, "$name: and may try again";
            is scalar(grep { $_->complete } @streams), 10, "$name: their answers end properly";
            is $last[0]{id}, "$ids[0]:4", "$name: it is the next event";
        }
        else {
            is join(' ', grep { $_ ne 'shutting_down' } map { $_ ? $_->{json}{code} : () } @last), '',
                "$name: no reader is told anything else";
        }
        $_->close for @streams;
        if ($how eq 'restart') {
            # The arena has survived.
            my $again = resume($t, '/chat', "$ids[3]:3");
            is $again->status, 200, "$name: the stream is still known";
            my $event = $again->next_event;
            is "$event->{id} $event->{json}{code}", "$ids[3]:4 shutting_down", "$name: as one that was ended";
            $again->close;
            is $t->health->{streams}{active}, 0, "$name: no stream is active";
            $t->upstream->signal($_) for qw(a b);
            is $t->stream('/chat?message=hi')->answer, 'onetwothreefour', "$name: new ones work";
        }
        ok wait_until(sub { $t->upstream->count('active') == 0 }, 10), "$name: no request upstream is left";
        $t->check;
    }
}

# ---- the arena's measures change -----------------------------------------------------------------------------------------

{
    my $t = server(server_config => 'ChatStreamMaxStreams 50');
    my $up = $t->upstream;
    my $stream = $t->stream('/chat?message=hi');
    my $id = $stream->header('x-stream-id');
    $stream->next_event for 1 .. 3;
    is $t->health->{streams}{max}, 50, 'an arena for fifty';
    $t->httpd->{server_config} = 'ChatStreamMaxStreams 60';
    $t->httpd->write_config;
    $t->expect_log(qr/\[chatstream:notice\].*ChatStreamMaxStreams or ChatStreamArena changed/);
    $t->graceful;
    ok wait_until(sub { $t->health->{streams}{max} == 60 }, 10), 'after a graceful restart there is one for sixty';
    is $t->request('/chat', headers => { 'Last-Event-ID' => "$id:3" })->status, 410, 'a stream of before is not in it';
    $up->signal('a');
    is $stream->next_event->{json}{content}, 'three', 'but goes on in its own child';
    $up->signal('b');
    is numbers($stream->events), '5 6', 'to its end';
    $stream->close;
    is $t->stream('/chat?message=hi')->answer, 'onetwothreefour', 'and new ones work';
    $t->done;
}
