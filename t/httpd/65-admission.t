#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Admission: one stream is one, however many ask at once and whatever happens to children and clients; and who is refused learns
# when it may end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;

my $CLOCKS = 'ChatStreamTimeout 100 headers=100 first-token=100 idle=100';

# Asks until it is let in, and goes on to the end; 1: it was.
sub let_in
{
    my ($t, $path, %ask) = @_;
    my $stream;
    my $in = wait_until(sub { $stream = $t->stream($path, %ask); $stream->status == 200 }, 15);
    $stream->abort;
    return $in && $t->wait_active(0, 15);
}

my $script = "token a\nwait end\ndone\n";

# ---- 64 at once over 4 children --------------------------------------------------------------------------------------------

my $t = ChatStream::Test->new(
    children => 4, threads => 20, bare => 1, start => 0,
);
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
my $jwt = 'ChatStreamJWTKey HS256 ' . $key->file;
$t->httpd->{config} = chat('/one', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect abort 0')
    . chat('/grace', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect abort 20')
    . chat('/users', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect abort 0', $jwt)
    . chat('/detached', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect detach');
$t->start;
$t->upstream->script(wait => $script);

my @children = $t->children;
# httpd accepts a connection when its first bytes are there.
my $request = ChatStream::Client::request_text(path => '/one?message=hi');
my $last = substr $request, -4, 4, '';
my @clients = map { $t->httpd->connect_to($_, sub { map { $t->open('/one?message=hi', raw => $request) } 1 .. 16 }) } @children;
$_->send($last) for @clients;
my %count;
$count{ $_->status }++ for @clients;
is_deeply(\%count, { 200 => 1, 429 => 63 }, '64 at once over 4 children, limit 1: exactly one stream');
my ($one) = grep { $_->status == 200 } @clients;
my @refused = grep { $_->status == 429 } @clients;
is scalar(grep { $_->json->{code} ne 'too_many_streams' } @refused), 0, 'the others are told why';
is scalar(grep { $_->header('retry-after') !~ /^(?:9\d|100)$/ } @refused), 0, 'and when its time is over';
is $one->event_of('token')->{json}{content}, 'a', 'the one streams';
is $t->upstream->count('requests'), 1, 'the upstream was asked once';

# ---- what counts and what does not -----------------------------------------------------------------------------------------

my $id = $one->header('x-stream-id');
my @readers = map { $t->stream_on($_, "/one?last_event_id=$id:0") } @children;
is join('', map { $_->event_of('token')->{json}{content} } @readers), 'aaaa', 'it can be resumed on every child';
$_->close for @readers;
is $t->request('/one?message=hi')->status, 429, 'that changes nothing';
is $t->request('/one?message=hi', method => 'HEAD')->status, 200, 'HEAD claims nothing';
is $t->request('/one')->status, 400, 'a mistake is told first';
$_->close for @clients;
ok let_in($t, '/one?message=hi'), 'it ends, and the next is let in';

my @joined = map { $t->stream('/one?message=hi', headers => [ 'Idempotency-Key' => 'k' ]) } 1 .. 3;
is join(' ', map { $_->status } @joined), '200 200 200', 'the same Idempotency-Key is the same stream';
is $t->request('/one?message=hi', headers => [ 'Idempotency-Key' => 'l' ])->status, 429, 'another one is another';
$_->close for @joined;
ok let_in($t, '/one?message=hi'), 'all readers gone, it is over';

my %as = map { $_ => [ Authorization => 'Bearer ' . $key->sign({ sub => $_ }) ] } qw(anna bob 127.0.0.1);
my @users = map { $t->stream('/users?message=hi', @$_) } [ headers => $as{anna} ], [ headers => $as{bob} ], [ headers => $as{'127.0.0.1'} ], [], [ from => '127.0.0.2' ];
is join(' ', map { $_->status } @users), '200 200 200 200 200', 'each user has one: a name that looks like an address is no address';
is $t->request('/users?message=hi', headers => $as{anna}, from => '127.0.0.9')->status, 429, 'a user has one wherever she is';
$_->close for @users;
ok $t->wait_active(0), 'all are over';

# ---- when it may end -------------------------------------------------------------------------------------------------------

sub retry_after { my $answer = $t->request('/grace?message=hi'); return $answer->status == 429 ? $answer->header('retry-after') : -1 }

my $stream = $t->stream('/grace?message=hi');
$stream->event_of('token');
$id = $stream->header('x-stream-id');
like retry_after(), qr/^(?:9\d|100)$/, 'somebody reads: the total time';
$stream->close;
ok wait_until(sub { my $s = retry_after(); $s >= 1 && $s <= 20 }, 10), 'nobody does any more: the grace time';
$stream = $t->stream("/grace?last_event_id=$id:1");
ok wait_until(sub { retry_after() > 20 }, 10), 'somebody came back: the total time again';
$stream->close;
ok wait_until(sub { my $s = retry_after(); $s >= 1 && $s <= 20 }, 10), 'and left again';
is $t->request("/grace?stream_id=$id", method => 'DELETE')->status, 200, 'cancelled';
ok let_in($t, '/one?message=hi'), 'the next need not wait';

$stream = $t->stream('/detached?message=hi');
$stream->event_of('token');
$id = $stream->header('x-stream-id');
$stream->close;
my $answer = $t->request('/detached?message=hi');
like $answer->status . ' ' . $answer->header('retry-after'), qr/^429 (?:9\d|100)$/, 'a stream that goes on alone counts, to its total time';
$t->request("/detached?stream_id=$id", method => 'DELETE');
ok $t->wait_active(0), 'over';

# ---- what goes wrong -------------------------------------------------------------------------------------------------------

for my $round (1 .. 2) {
    my ($victim) = $t->children;
    $stream = $t->stream_on($victim, '/one?message=hi');
    $stream->event_of('token');
    $t->kill_child(KILL => $victim);
    ok $stream->wait_closed, "kill -9, $round: the client notices";
    ok let_in($t, '/one?message=hi'), "kill -9, $round: the count returns to 0";
    ok wait_until(sub { $t->children == 4 }, 10), "kill -9, $round: a new child is there";
}
$t->expect_log(qr/a child was lost, and 1 streams with it/);

$stream = $t->stream('/one?message=hi');
$stream->event_of('token');
$t->graceful;
is $t->request('/one?message=hi')->status, 429, 'graceful: the stream goes on in the old child, and counts';
$stream->close;
ok let_in($t, '/one?message=hi'), 'graceful: the count returns to 0';

for my $round (1 .. 30) {
    my $client = $t->open('/one?message=hi');
    # Before the head, after it, after the first token.
    $client->read_head if $round % 3;
    $client->event_of('token') if $round % 3 == 2 && $client->status == 200;
    $client->abort;
}
ok let_in($t, '/one?message=hi'), 'after thirty aborts at any moment the count returns to 0';

$t->upstream->signal('end');
is $t->request('/one?message=hi')->answer, 'a', 'one that ends by itself';
is $t->request('/one?message=hi')->answer, 'a', 'makes room at once';
$t->check;

# ---- the blocking sink -----------------------------------------------------------------------------------------------------

for my $setup ({ name => 'HTTP/2', http2 => 1, children => 2, ask => { http2 => 1 } }, { name => 'prefork', mpm => 'prefork', children => 6 },
    { name => 'worker', mpm => 'worker', children => 2 }) {
    my ($name, %ask) = ($setup->{name}, %{ $setup->{ask} || {} });
    my $other = ChatStream::Test->new(
        bare => 1, config => chat('/one', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect abort 0'),
        map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(mpm http2 children),
    );
    $other->upstream->script(wait => $script);
    my @all = map { $other->open('/one?message=hi', %ask) } 1 .. 5;
    is join(' ', sort map { $_->status } @all), '200 429 429 429 429', "$name: five at once, one is let in";
    $_->close for @all;
    ok let_in($other, '/one?message=hi', %ask), "$name: it leaves, and the next is let in";
    $other->check;
}

# ---- for all together ------------------------------------------------------------------------------------------------------

my $full = ChatStream::Test->new(
    children => 2, server_config => 'ChatStreamMaxStreams 4',
    config => chat('/any', 'sse?script=wait', $CLOCKS, 'ChatStreamOnDisconnect abort 0'),
);
$full->upstream->script(wait => $script);
my @all = map { $full->open('/any?message=hi') } 1 .. 8;
%count = ();
$count{ $_->status }++ for @all;
is_deeply(\%count, { 200 => 4, 503 => 4 }, 'ChatStreamMaxStreams 4: eight at once, four are let in');
for my $refused (grep { $_->status == 503 } @all) {
    is $refused->json->{code}, 'unavailable', 'the others are told why';
    like $refused->header('retry-after'), qr/^[1-9]\d?$/, 'and when to come back';
}
is $full->health->{status}, 'degraded', 'health says that no more fit';
$_->close for @all;
ok let_in($full, '/any?message=hi'), 'then there is room again';
$full->done;
