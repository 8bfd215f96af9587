#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# ChatStreamMaxPerUser: counted over all children, claimed in one step, given back at the end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $t = ChatStream::Test->new(
    children => 2,
    config   => patient()
        . chat('/two',  'sse?script=wait', 'ChatStreamMaxPerUser 2', 'ChatStreamOnDisconnect abort 0')
        . chat('/open', 'sse?script=wait', 'ChatStreamOnDisconnect abort 0'),
);
$t->upstream->script(wait => "token a\nwait end\ndone\n");

my @streams = map { $t->stream('/two?message=a') } 1 .. 2;
$_->event_of('token') for @streams;
for (1 .. 6) {
    my $answer = $t->request('/two?message=a');
    is $answer->status, 429, 'one more is refused, whichever child is asked';
    is $answer->json->{code}, 'too_many_streams', 'with its code';
    cmp_ok $answer->header('retry-after'), '>=', 1, 'and when to ask again';
}
my $id = $streams[0]->header('x-stream-id');
my $again = $t->stream("/two?last_event_id=$id:1");
is $again->next_event->{json}{type}, 'token', 'reading one again is no stream of its own';
my $free = $t->stream('/open?message=a');
is $free->event_of('token')->{json}{content}, 'a', 'a location without a limit has none';
is $t->upstream->count->{requests}, 3, 'the refused ones asked nobody';

$_->close for $streams[1], $free;
ok $t->wait_active(1), 'the one that left is over';
my $next = $t->stream('/two?message=a');
is $next->event_of('token')->{json}{content}, 'a', 'and its place is free';
$t->upstream->signal('end');
ok $t->wait_active(0), 'all are over';
$t->done;
