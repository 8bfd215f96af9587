#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Backups are asked when nothing of an answer has come, in order, and never when the first may have begun to generate.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use IO::Socket::INET;

# A port whose listener takes no more connections: the kernel drops what asks for one, as a lost host would.
sub full_port
{
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $@";
    my @fill = map {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $listener->sockport, Proto => 'tcp', Blocking => 0)
    } 1 .. 8;
    return ($listener->sockport, [ $listener, @fill ]);
}

my ($full, $keep) = full_port();
my $dead = 'http://127.0.0.1:' . free_port() . '/sse';

# A location for each: its upstreams in the order of the file. A, B, C are three simulators.
my %locations = (
    alone   => [ 'A' ],
    order   => [ 'B backup', 'A' ],
    refused => [ "$dead", 'A backup' ],
    slow    => [ "http://127.0.0.1:$full/sse connect=200ms", 'A backup' ],
    chain   => [ 'C backup', "$dead backup", "http://127.0.0.1:$full/sse connect=200ms", 'A?status=503', 'B?status=429 backup',
        'A backup' ],
    busy    => [ 'A?status=503', 'B backup' ],
    limited => [ 'A?status=429&retry_after=9', 'B backup' ],
    both    => [ 'A?status=503', 'B?status=429&retry_after=9 backup' ],
    none    => [ "$dead", "http://127.0.0.1:$full/sse connect=200ms backup" ],
    closes  => [ 'A?script=close', 'B backup' ],
    noise   => [ 'A?script=noise', 'B backup' ],
    (map { ("s$_" => [ "A?status=$_", 'B backup' ]) } 302, 400, 401, 404, 500, 502, 504),
    cut     => [ 'A?script=cut', 'B backup' ],
    empty   => [ 'A?script=empty', 'B backup' ],
    errs    => [ 'A?script=errs', 'B backup' ],
    mixed   => [ 'A:openai?status=503', 'B:text backup' ],
);

sub upstream_line
{
    my ($text) = @_;
    my %simulator = (A => '${UPSTREAM}', B => '${UPSTREAM2}', C => '${UPSTREAM3}');
    my $dialect = 'sse';
    $dialect = $2 if $text =~ s/^([ABC]):(\w+)/$1/;
    $text =~ s/^([ABC])/$simulator{$1}\/$dialect/;
    $text =~ s/^(\S+)/ChatStreamUpstream "$1" dialect=$dialect/;
    return $text;
}

sub config
{
    return "ChatStreamModel m\n" . join '', map {
        chat("/$_", 'sse', (map { upstream_line($_) } @{ $locations{$_} }), 'ChatStreamCommitAfter 60',
            'ChatStreamTimeout 60 headers=20')
    } sort keys %locations;
}

my $t;

# Asks, and says what came: status, code or the end's type, requests on A, B, C.
sub ask
{
    my ($location) = @_;
    my @before = map { $t->upstream($_)->count('requests') } 1 .. 3;
    my $answer = $t->request("/$location?message=one+two", timeout => 30);
    my $type = $answer->header('content-type');
    my ($end) = $type =~ /json/ ? $answer->json->{code} : (map { $_->{json}{code} || $_->{json}{type} } $answer->events)[-1];
    my @after = map { $t->upstream($_)->count('requests') } 1 .. 3;
    return ($answer, [ $answer->status, $end, map { $after[$_] - $before[$_] } 0 .. 2 ]);
}

sub asks
{
    my ($location, $wanted, $name) = @_;
    my ($answer, $got) = ask($location);
    is_deeply $got, $wanted, "$location: $name" or diag "@$got";
    return $answer;
}

for my $mpm (qw(event worker)) {
    $t = ChatStream::Test->new(mpm => $mpm, upstreams => [ {}, {}, {} ], config => config());
    my ($a, $b) = ($t->upstream(1), $t->upstream(2));
    $a->script(close => "close\n");
    $a->script(noise => "raw SSH-2.0-x\\r\\n\n");
    $a->script(cut => "headers\ncut\n");
    $a->script(empty => "headers\n");
    $a->script(errs => "send data: {\"error\":{\"type\":\"overloaded\"}}\\n\\n\n");
    $t->allow_log(qr/trying the next one/, qr/stream \S+ ended as error/);

    asks(alone => [ 200, 'complete', 1, 0, 0 ], 'no backup is needed');
    asks(order => [ 200, 'complete', 1, 0, 0 ], 'a backup written first is still a backup');
    asks(refused => [ 200, 'complete', 1, 0, 0 ], 'nobody listens');
    asks(slow => [ 200, 'complete', 1, 0, 0 ], 'no connection in time');
    ok $t->wait_log(qr{upstream http://127\.0\.0\.1:$full/sse: no connection in time; trying the next one}), 'slow: the log says why';
    asks(busy => [ 200, 'complete', 1, 1, 0 ], '503 says that nothing was generated');
    ok $t->wait_log(qr{upstream \Q@{[ $a->url ]}\E/sse: answered 503; trying the next one}), 'busy: the log says why';
    asks(limited => [ 200, 'complete', 1, 1, 0 ], 'so does 429');
    asks(closes => [ 200, 'complete', 1, 1, 0 ], 'closed before the first byte');
    asks(noise => [ 200, 'complete', 1, 1, 0 ], 'not HTTP');
    asks(chain => [ 200, 'complete', 1, 0, 1 ], 'all in their order until one answers');

    my $answer = asks(both => [ 429, 'rate_limited', 1, 1, 0 ], 'the last one has the last word');
    is $answer->header('retry-after'), 9, 'both: with its Retry-After';
    asks(none => [ 504, 'upstream_timeout', 0, 0, 0 ], 'nobody there');

    asks("s$_" => [ 502, 'upstream_error', 1, 0, 0 ], 'it may have been worked on: not asked twice') for 302, 400, 401, 404, 500, 502, 504;
    my (undef, $got) = ask('cut');
    is_deeply [ @$got[ 1 .. 4 ] ], [ 'upstream_error', 1, 0, 0 ], 'cut: never after headers';
    (undef, $got) = ask('empty');
    is_deeply [ @$got[ 1 .. 4 ] ], [ 'upstream_error', 1, 0, 0 ], 'empty: never after headers';
    (undef, $got) = ask('errs');
    is_deeply [ @$got[ 1 .. 4 ] ], [ 'upstream_error', 1, 0, 0 ], 'an error event: never after headers';

    # The request is made anew for each dialect, and named the same.
    $_->reset for $a, $b;
    $answer = asks(mixed => [ 200, 'complete', 1, 1, 0 ], 'another dialect');
    my ($first) = $a->requests;
    my ($second) = $b->requests;
    is(JSON::PP::decode_json($first->{body})->{messages}[0]{content}, 'one two', 'mixed: the first was asked in its dialect');
    is(JSON::PP::decode_json($second->{body})->{message}, 'one two', 'mixed: the second in its own');
    is $_->{headers}{'x-request-id'}, $answer->header('x-stream-id'), 'mixed: under the id of the stream' for $first, $second;
    $t->check;
}
done_testing;
