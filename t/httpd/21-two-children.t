#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Two processes, one server: what one child streams is read, joined and cancelled on the other. connect_to() of the fixture
# sees to it which child serves which connection, child_of() tells which one did.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $t = ChatStream::Test->new(
    children => 2,
    config   => patient() . chat('/chat', 'sse?script=two', 'ChatStreamOnDisconnect detach')
        . chat('/other', 'sse?script=two', 'ChatStreamOnDisconnect detach')
        . chat('/hold', 'sse?script=hold', 'ChatStreamCommitAfter 20s')
        . chat('/fails', 'sse?script=fails'),
);
my $up = $t->upstream;
my ($one, $two) = $t->children;
is scalar($t->children), 2, 'two children run';

sub numbers { return join ' ', map { ($_->{id} // '-') =~ /:(\d+)$/ ? $1 : '-' } @_ }
sub resume { my ($pid, $path, $id) = @_; return $t->stream_on($pid, $path, headers => { 'Last-Event-ID' => $id }) }

# ---- issue item 5: start on one, cut, resume on the other, in both directions --------------------------------------------

for my $way ([ $one, $two ], [ $two, $one ]) {
    my ($owner, $helper) = @$way;
    $up->reset;
    $up->script(two => "token one\ntoken two\nwait a\ntoken three\nwait b\ntoken four\nwait c\ntoken five\ndone\n");
    my $stream = $t->stream_on($owner, '/chat?message=hi');
    my $id = $stream->header('x-stream-id');
    my @seen = map { $stream->next_event } 1 .. 3;
    is numbers(@seen), '1 2 3', 'three events come on the one child';
    is $t->child_of($stream), $owner, 'which owns the stream';
    $stream->abort;

    my $again = resume($helper, '/chat', $seen[-1]{id});
    is $t->child_of($again), $helper, 'the client comes back to the other child';
    is $again->status, 200, 'which knows the stream';
    # Each event is withheld until the one before has arrived: the owner has to wake this child for every one of them.
    $up->signal('a');
    push @seen, $again->next_event;
    is $seen[-1]{json}{content}, 'three', 'an event crosses over as it happens';
    $up->signal('b');
    push @seen, $again->next_event;
    is $seen[-1]{json}{content}, 'four', 'and the next';
    $again->abort;

    # A second cut; this time the rest is there before the client is.
    $up->signal('c');
    $up->wait_for(finished => 1);
    $again = resume($owner, '/chat', $seen[-1]{id});
    push @seen, $again->events;
    is numbers(@seen), '1 2 3 4 5 6 7', 'every event came exactly once';
    is join(' ', map { $_->{json}{content} // () } @seen), 'one two three four five', 'with its text';
    is $seen[-1]{json}{type}, 'complete', 'to the end';
    ok $again->complete, 'which is a proper one';
    is $up->count('requests'), 1, 'the upstream was asked once';
    for my $child ($one, $two) {
        is $t->open_on($child, '/chat', headers => { 'Last-Event-ID' => $seen[-1]{id} })->status, 204, 'both know that it is over';
        is numbers(resume($child, '/chat', "$id:5")->events), '6 7', 'and both can tell the rest again';
    }
}

# ---- many streams at once ------------------------------------------------------------------------------------------------

# A burst for twenty streams with four readers each; a wake-up that gets lost leaves somebody waiting.
$up->reset;
$up->script(two => "token zero\nwait go\n" . join('', map { "token t$_\n" } 1 .. 40) . "done\n");
my @readers;
for my $n (0 .. 19) {
    my $first = $t->stream_on($n % 2 ? $one : $two, '/chat?message=hi');
    my $id = $first->header('x-stream-id');
    push @readers, $first, map { resume($_, '/chat', "$id:0") } $one, $two, $two;
}
is scalar(grep { $_->event_of('token')->{json}{content} eq 'zero' } @readers), 80, 'eighty readers stand in twenty streams';
$up->signal('go');
my $want = join ' ', 3 .. 43;
is scalar(grep { numbers($_->events) eq $want } @readers), 80, 'all of them get the burst whole, once and in order';
is $up->count('requests'), 20, 'of twenty requests';
@readers = ();

# ---- cancelling from elsewhere --------------------------------------------------------------------------------------------

$up->reset;
$up->script(two => "token one\nstall\n");
my $stream = $t->stream_on($one, '/chat?message=hi');
my $id = $stream->header('x-stream-id');
my $second = resume($two, '/chat', "$id:0");
$_->event_of('token') for $stream, $second;
my $answer = $t->open_on($two, "/chat?stream_id=$id", method => 'DELETE');
is $answer->status, 200, 'DELETE on the other child';
is $answer->json->{status}, 'cancelled', 'is taken';
$answer->close;
$up->wait_for(aborted => 1);
pass 'the owner aborted the upstream';
is $_->next_event->{json}{code}, 'cancelled', 'each reader is told, on either child' for $stream, $second;
is $_->next_event, undef, 'and that is the end' for $stream, $second;

# ---- one key, one stream --------------------------------------------------------------------------------------------------

sub ask
{
    my ($pid, $path, $key, @rest) = @_;
    return $t->stream_on($pid, "$path?message=hi", headers => { 'Idempotency-Key' => $key }, @rest);
}

$up->reset;
$up->script(two => "token one\nwait go\ntoken two\ndone\n");
my $mine = ask($one, '/chat', 'key-1');
$id = $mine->header('x-stream-id');
is $mine->event_of('token')->{json}{content}, 'one', 'a stream with a key';
my $joined = ask($two, '/chat', 'key-1');
is $joined->header('x-stream-id'), $id, 'the same key on the other child joins it';
is numbers($joined->next_event, $joined->next_event), '1 2', 'from its first event on';
is $up->count('requests'), 1, 'and asks nobody';
my @different = (ask($two, '/chat', 'key-2'), ask($two, '/chat', 'key-1', from => '127.0.0.2'), ask($two, '/other', 'key-1'));
isnt $different[0]->header('x-stream-id'), $id, 'another key is another stream';
isnt $different[1]->header('x-stream-id'), $id, "another user's is another stream";
isnt $different[2]->header('x-stream-id'), $id, 'another location is another stream';
is $up->count('requests'), 4, 'which all asked the upstream';
$up->signal('go');
is numbers($joined->events), '3 4', 'who joined gets the rest';
is numbers($mine->events), '3 4', 'as does who began';
is numbers(ask($_, '/chat', 'key-1')->events), '1 2 3 4', 'and after the end the key still tells all of it' for $one, $two;
$_->events for @different;
is $up->count('requests'), 4, 'without asking';

# While the first has not even been answered.
$up->reset;
$up->script(hold => "wait go\ntoken one\ndone\n");
my @waiting = map { $t->open_on($_, '/hold?message=hi', headers => { 'Idempotency-Key' => 'early' }) } $one, $two, $two;
$up->wait_for(requests => 1);
$up->signal('go');
is join('|', map { numbers($_->events) } @waiting), join('|', ('1 2 3') x 3), 'who joins before the first byte gets all as well';
is scalar(keys %{ { map { $_->header('x-stream-id') => 1 } @waiting } }), 1, 'of one stream';
is $up->count('requests'), 1, 'for one request';

# A failure that nobody saw anything of is no stream to join.
$up->reset;
$up->script(fails => "wait joined\nstatus 500\nsend no\n");
my @failing = map { $t->open_on($_, '/fails?message=hi', headers => { 'Idempotency-Key' => 'try' }) } $one, $two;
$up->wait_for(requests => 1);
$up->signal('joined');
is join(' ', map { $_->status } @failing), '502 502', 'a failure before the commit is the answer to all who joined';
is join(' ', map { $_->json->{code} } @failing), 'upstream_error upstream_error', 'with its code';
$up->script(fails => "token yes\ndone\n");
is $t->stream_on($_, '/fails?message=hi', headers => { 'Idempotency-Key' => 'try' })->answer, 'yes', 'then the key is free'
    for $two, $one;
is $up->count('requests'), 2, 'for one more request';
$t->expect_log(qr/ended as error \(upstream_error\).*answered 5/);
$t->done;
