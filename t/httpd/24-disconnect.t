#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What happens upstream when a client goes away, in every way a client can go, on every kind of connection. While it goes
# nothing is being sent, so the server has to notice by itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Time::HiRes qw(time);

my $GRACE = 0.4;

sub location { my ($path, $script, @rest) = @_; return chat($path, "sse?script=$script", @rest) }

my $config = patient() . location('/zero', 'stall', 'ChatStreamOnDisconnect abort 0')
    . location('/filtered', 'stall', 'ChatStreamOnDisconnect abort 0', 'SetOutputFilter SUBSTITUTE', 'Substitute s/never-there/x/n')
    . location('/document', 'stall', 'ChatStreamOnDisconnect abort 0', 'SetHandler chatstream-complete')
    . location('/early', 'silent', 'ChatStreamOnDisconnect abort 0', 'ChatStreamCommitAfter 30s')
    . location('/flood', 'flood', 'ChatStreamOnDisconnect abort 0', 'ChatStreamReplay 16k', 'ChatStreamMaxEvent 16k')
    . location('/short', 'two', "ChatStreamOnDisconnect abort $GRACE", 'ChatStreamFormat native')
    . location('/long', 'two', 'ChatStreamOnDisconnect abort 60s')
    . location('/beat', 'two', 'ChatStreamOnDisconnect abort 4s', 'ChatStreamHeartbeat 1s')
    . location('/detach', 'two', 'ChatStreamOnDisconnect detach');

my ($t, $up, $name, %ask);

sub scripts
{
    $up->reset;
    $up->script(stall  => "token one\nstall\n");
    $up->script(silent => "wait never\ndone\n");
    $up->script(flood  => "repeat 2000\ntoken " . 'x' x 4000 . "\nend\nstall\n");
    $up->script(two    => "token one\nwait go\ntoken two\ndone\n");
    return;
}

sub numbers { return join ' ', map { ($_->{id} // '-') =~ /:(\d+)$/ ? $1 : '-' } @_ }
sub resume { my ($path, $id) = @_; return $t->stream($path, %ask, headers => { 'Last-Event-ID' => $id }) }
sub state_of { my ($path, $id) = @_; return $t->request("$path?stream_id=$id", method => 'DELETE')->json->{status} }

# ---- each way to go, on each kind of connection ----------------------------------------------------------------------------

my %leave = (
    RST          => sub { $_[0]->abort },
    FIN          => sub { $_[0]->close },
    'half-close' => sub { $_[0]->half_close },
);

my @setups = (
    { name => 'event',   server => { mpm => 'event' }, paths => [qw(/zero /filtered /document /early)] },
    { name => 'TLS',     server => { mpm => 'event', tls => 1 }, ask => { tls => 1 }, paths => [qw(/zero /filtered /early)] },
    { name => 'worker',  server => { mpm => 'worker' }, paths => [qw(/zero /document /early)] },
    { name => 'worker, TLS', server => { mpm => 'worker', tls => 1 }, ask => { tls => 1 }, paths => [qw(/zero /early)] },
    { name => 'prefork', server => { mpm => 'prefork', children => 4 }, paths => ['/zero'] },
    { name => 'HTTP/2',  server => { mpm => 'event', http2 => 1 }, ask => { http2 => 1 }, paths => [qw(/zero /document /early)], ways => ['RST'] },
    { name => 'HTTP/2 on worker', server => { mpm => 'worker', http2 => 1 }, ask => { http2 => 1 }, paths => ['/zero'], ways => ['RST'] },
);

for my $setup (@setups) {
    $name = $setup->{name};
    %ask = %{ $setup->{ask} || {} };
    $t = ChatStream::Test->new(config => $config, modules => [qw(filter substitute)], %{ $setup->{server} });
    $up = $t->upstream;
    for my $path (@{ $setup->{paths} }) {
        for my $way (@{ $setup->{ways} || [ sort keys %leave ] }) {
            scripts();
            my $stream = $t->open("$path?message=hi", %ask);
            $up->wait_for(requests => 1);
            $stream->event_of('token') if $path eq '/zero' || $path eq '/filtered';
            is $up->count('active'), 1, "$name: $path, $way: the upstream is at it";
            $leave{$way}->($stream);
            $up->wait_for(aborted => 1);
            pass "$name: $path, $way: is aborted when its reader goes";
            ok $t->wait_active(0), "$name: $path, $way: and the stream has ended";
            $stream->close;
        }
    }

    # With much underway that the client never takes.
    scripts();
    my $stuck = $t->stream('/flood?message=hi', %ask, receive_buffer => 4096);
    $stuck->event_of('token');
    $stuck->abort;
    $up->wait_for(aborted => 1);
    pass "$name: a client that goes while its connection is full";

    # Somebody else still reads.
    scripts();
    my $one = $t->stream('/zero?message=hi', %ask);
    my $id = $one->header('x-stream-id');
    $one->event_of('token');
    my $two = resume('/zero', "$id:0");
    $two->event_of('token');
    $one->abort;
    # A resume of a third, answered by the same loop, comes after the loop has seen the first one go.
    my $three = resume('/zero', "$id:1");
    is $three->next_event->{json}{content}, 'one', "$name: one of two goes";
    $three->abort;
    is $up->count('aborted'), 0, "$name: and the other is still served";
    $two->abort;
    $up->wait_for(aborted => 1);
    pass "$name: until it goes, too";

    # detach: nobody has to be there.
    scripts();
    my $detached = $t->stream('/detach?message=hi', %ask);
    $id = $detached->header('x-stream-id');
    $detached->event_of('token');
    $detached->abort;
    $up->signal('go');
    $up->wait_for(finished => 1);
    pass "$name: detach: it is generated to its end";
    my $again = resume('/detach', "$id:2");
    is numbers($again->events), '3 4', "$name: detach: and can be read";
    is $up->count('requests'), 1, "$name: detach: without asking again";
    $again->close;

    # The grace.
    scripts();
    my $left = $t->stream('/short?message=hi', %ask);
    $id = $left->header('x-stream-id');
    $left->event_of('token');
    my $before = time;
    $left->abort;
    $up->wait_for(aborted => 1);
    my $took = time - $before;
    cmp_ok $took, '>=', $GRACE, "$name: the upstream is aborted after the grace, not before";
    diag sprintf '%s: aborted %.0f ms after the client left, grace is %.0f ms', $name, $took * 1000, $GRACE * 1000;
    ok $t->wait_active(0), "$name: that is its end";
    is state_of('/short', $id), 'disconnected', "$name: as disconnected";
    my $late = resume('/short', "$id:2");
    my $event = $late->next_event;
    is $event->{json}{type}, 'error', "$name: who comes too late is told so";
    ok $event->{json}{retryable}, "$name: and may ask anew";
    is $late->next_event, undef, "$name: and that is all";
    $late->close;

    # Coming back in time.
    scripts();
    my $moving = $t->stream('/long?message=hi', %ask);
    $id = $moving->header('x-stream-id');
    $moving->event_of('token');
    for my $round (1 .. 3) {
        $moving->abort;
        $moving = resume('/long', "$id:1");
        is $moving->next_event->{json}{content}, 'one', "$name: coming back in time, $round";
    }
    $moving->abort;
    $up->signal('go');
    $up->wait_for(finished => 1);
    pass "$name: during the grace the upstream goes on";
    is numbers(resume('/long', "$id:2")->events), '3 4', "$name: and what it said is there";
    is $up->count('requests'), 1, "$name: of one request";
    $t->check;
}

# ---- a reconnect stops the clock ---------------------------------------------------------------------------------------------

$name = 'event';
%ask = ();
$t = ChatStream::Test->new(config => $config, modules => [qw(filter substitute)], http2 => 1);
$up = $t->upstream;
scripts();
my $stream = $t->stream('/beat?message=hi');
my $id = $stream->header('x-stream-id');
$stream->event_of('token');
$stream->abort;
$stream = resume('/beat', "$id:1");
$stream->event_of('token');
# The server's own beat measures the time: five are more than the grace.
is $stream->event->{event}, 'heartbeat', "the reader is there for longer than the grace, $_" for 1 .. 5;
$up->signal('go');
is numbers($stream->events), '3 4', 'and the stream was not aborted';

# ---- RST_STREAM: one stream of a connection goes, the connection stays ---------------------------------------------------------

sub frame { my ($type, $flags, $number, $payload) = @_; return substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $number) . $payload }

# HPACK without a table: literal fields, names and values as they are.
sub fields
{
    my $block = '';
    while (my ($field, $value) = splice @_, 0, 2) {
        $block .= join '', "\x00", map { chr(length) . $_ } $field, $value;
    }
    return $block;
}

# On a busy machine mod_http2 now and then leaves the RST_STREAM unread until it gives up the whole connection (seen once in
# six runs of the suite, with KeepAliveTimeout's 5 s); that is not what is asked here, so then it is asked again.
my $h2;
for my $try (1 .. 3) {
    scripts();
    $h2 = $t->open('/', raw => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, ''));
    for my $number (1, 3) {
        $h2->send(frame(1, 5, $number, fields(
            ':method' => 'GET', ':scheme' => 'http', ':authority' => 'localhost', ':path' => '/zero?message=hi')));
    }
    $up->wait_for(requests => 2);
    $h2->send(frame(3, 0, 1, pack 'N', 8));
    $up->wait_for(aborted => 1);
    last if $try == 3 || $t->wait_active(1) && $up->count('active') == 1;
    diag "try $try: the connection went with the stream";
    $h2->close;
    $t->wait_active(0);
}
pass 'RST_STREAM aborts its upstream';
ok $t->wait_active(1), 'and only that';
is $up->count('active'), 1, 'the other stream of the connection goes on';
$h2->send(frame(3, 0, 3, pack 'N', 8));
$up->wait_for(aborted => 2);
pass 'until it is reset as well';
$h2->close;
$t->done;
