#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 of a child: whoever reads its streams elsewhere is told, all it held is free again, and the rest of the server does
# not notice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Time::HiRes qw(time);

my $SLOW = 30;    # bound on what takes five seconds on any machine that is not on its knees

my $t = ChatStream::Test->new(
    children => 2,
    config   => patient() . chat('/chat', 'sse?script=two', 'ChatStreamOnDisconnect detach')
        . chat('/load', 'sse?tokens=60&size=40&rate=100', 'ChatStreamOnDisconnect abort 0', 'ChatStreamReplay 64k 1')
        . chat('/heavy', 'sse?script=heavy', 'ChatStreamReplay 16k 0.2', 'ChatStreamMaxEvent 64k', 'ChatStreamMaxAnswer 64m'),
);
my $up = $t->upstream;

sub resume { my ($id, @rest) = @_; return $t->stream('/chat', headers => { 'Last-Event-ID' => $id }, @rest) }

sub arena_is_whole
{
    my $health = $t->health;
    return !$health->{streams}{active} && !$health->{streams}{kept} && $health->{arena}{free} == $health->{arena}{blocks};
}

# ---- issue item 6: a hundred streams, and readers in another child -------------------------------------------------------

my ($lost, $other) = $t->children;
$up->script(two => "token one\nwait go\ntoken two\ndone\n");
ok arena_is_whole(), 'nothing is in use at the start';

my @own = $t->httpd->connect_to($lost, sub { map { $t->open('/chat?message=hi') } 1 .. 100 });
is scalar(grep { $_->event_of('token')->{json}{content} eq 'one' } @own), 100, 'a hundred streams on one child';
my @ids = map { $_->header('x-stream-id') } @own;
my @readers = $t->httpd->connect_to($other, sub {
    map { $t->open('/chat', headers => { 'Last-Event-ID' => "$_:1" }) } @ids[ 0 .. 59 ];
});
is scalar(grep { $_->event_of('token')->{json}{content} eq 'one' } @readers), 60, 'sixty of them are read on the other child, too';

# Streams of the child that stays, read on the one that goes and on both.
my $safe = $t->stream_on($other, '/chat?message=hi');
my $safe_id = $safe->header('x-stream-id');
my $far = $t->stream_on($lost, '/chat', headers => { 'Last-Event-ID' => "$safe_id:0" });
$_->event_of('token') for $safe, $far;
is $t->health->{streams}{active}, 101, 'all are active';
cmp_ok $t->health->{arena}{free}, '<', $t->health->{arena}{blocks}, 'and use blocks';

my $killed = time;
my $seconds = sub { return time - $killed };
$t->kill_child('KILL', $lost);

# At once, before anybody has found out.
my $new = $t->open('/chat?message=hi');
my @back = map { $t->open('/chat', headers => { 'Last-Event-ID' => "$ids[$_]:2" }) } 60 .. 63, 0;
is $new->event_of('token')->{json}{content}, 'one', 'new streams work at once';
diag sprintf 'a new stream was there %.2f s after the kill', $seconds->();

my @told = map { $_->next_event } @readers;
diag sprintf 'all readers were told %.2f s after the kill', $seconds->();
is scalar(grep { $_ && $_->{json}{type} eq 'error' && $_->{json}{code} eq 'worker_lost' } @told), 60, 'readers elsewhere are told';
is scalar(grep { $_->{json}{retryable} } @told), 60, 'and may try again';
is $told[0]{id}, "$ids[0]:3", 'it is the next event';
is scalar(grep { !defined $_->next_event && $_->complete } @readers), 60, 'the last, of a proper answer';
is join(' ', map { my $event = $_->next_event; $event ? $event->{json}{code} : $_->status } @back), join(' ', ('worker_lost') x 5),
    'who was cut off and comes back at once is told as well';
ok !(grep { $_->next_event } @own), 'who sat on the child itself sees a cut';
is scalar(grep { $_->complete } @own), 0, 'and can tell';
ok wait_until(sub { $t->health->{streams}{active} == 2 }, $SLOW), 'the slots are free again';
diag sprintf 'the slots were free %.2f s after the kill', $seconds->();
$_->close for @readers, @own, @back;

is resume("$safe_id:1")->event_of('token')->{json}{content}, 'one', "the other child's streams are as they were";
$up->signal('go');
is $_->answer, 'two', 'and go on' for $safe, $new, resume("$safe_id:2");
$_->close for $safe, $new, $far;

# What is left are the two that ended well, kept for their replay time: one block each.
my ($free, $blocks);
ok wait_until(sub {
    my $health = $t->health;
    ($free, $blocks) = @{ $health->{arena} }{qw(free blocks)};
    return $health->{streams}{kept} == 2 && $free == $blocks - 2;
}, $SLOW), 'the blocks are free again' or diag "$free of $blocks are free";
my $took = $seconds->();
diag sprintf 'the blocks were free %.2f s after the kill', $took;
cmp_ok $took, '<', $SLOW, 'in time';
is $t->request('/chat', headers => { 'Last-Event-ID' => "$_:2" })->status, 410, 'by now the lost streams are gone' for @ids[ 0, 60, 99 ];
ok wait_until(sub { $up->count('active') == 0 }, 10), 'and nobody asks the upstream any more';
ok wait_until(sub { $t->children == 2 }, 10), 'a new child has taken the place';
is $t->health->{children}, 2, 'also in the table';
$t->expect_log(qr/\[chatstream:error\].*a child was lost, and 100 streams with it/);
# Whether a later victim held streams is chance.
$t->allow_log(qr/a child was lost, and \d+ streams with it/);
is $_->answer, 'onetwo', 'and works' for map { $t->stream_on($_, '/chat?message=hi') } $t->children;

# ---- again and again, at random moments ------------------------------------------------------------------------------------

my $seed = $ENV{CHATSTREAM_SEED} || time % 100000;
srand $seed;
diag "seed $seed";

# What a client may see: its events in order without a hole, and an end or a cut.
sub order_of
{
    my @numbers = map { ($_->{id} // '') =~ /:(\d+)$/ ? $1 : () } @_;
    return join(' ', @numbers) eq join(' ', 1 .. @numbers) ? 'in order' : "out of order: @numbers";
}

# The first two of these streams are read by nobody and fill their logs as fast as they can: the kill finds the child
# in the middle of taking and giving blocks.
$up->script(heavy => "repeat 16000\ntoken " . 'x' x 3000 . "\nend\ndone\n");
for my $round (1 .. 8) {
    my %seen;
    my @heavy = map { $t->open('/heavy?message=hi') } 1 .. 4;
    $_->event_of('token') for @heavy;
    my @clients = map { $t->open('/load?message=hi') } 1 .. 24;
    push @{ $seen{$_} }, $_->next_event for @clients;
    for my $step (1 .. 1 + rand 20) {
        push @{ $seen{$_} }, $_->next_event for @clients;
    }
    $heavy[$_]->abort for 0, 1;
    my @children = $t->children;
    $t->kill_child('KILL', $children[ rand @children ]);
    my %ends;
    for my $client (@clients) {
        push @{ $seen{$client} }, $client->events($SLOW);
        my @events = grep { defined } @{ $seen{$client} };
        is order_of(@events), 'in order', "round $round: events" if order_of(@events) ne 'in order';
        my $last = $events[-1];
        my $end = $client->complete ? $last->{json}{code} || $last->{json}{type} : 'cut';
        $ends{$end}++;
        if ($end eq 'complete') {
            is scalar(@events), 62, "round $round: all events" if @events != 62;
        }
        elsif ($last) {
            my $again = $t->stream('/load', headers => { 'Last-Event-ID' => $last->{id} });
            my $event = $again->status == 200 && $again->next_event;
            $ends{ $again->status == 200 ? $event->{json}{code} // '?' : $again->status }++;
            $again->close;
        }
        $client->close;
    }
    $_->close for @heavy;
    is join(' ', grep { !/^(?:complete|cut|worker_lost|410)$/ } sort keys %ends), '', "round $round: nothing but proper ends and cuts";
    note join ', ', map { "$_ $ends{$_}" } sort keys %ends;
    ok wait_until(sub { $t->children == 2 }, $SLOW), "round $round: a new child";
}
my $health;
ok wait_until(sub {
    $health = $t->health;
    return !$health->{streams}{active} && $health->{streams}{kept} == 4;
}, $SLOW), 'no stream is left over but the four kept ones' or diag explain $health;
is $health->{arena}{blocks} - $health->{arena}{free}, 4, 'each with its one block, and no other block is missing';
is $health->{children}, 2, 'no entry of the child table is left over';
is $t->stream_on($_, '/chat?message=hi')->answer, 'onetwo', 'and all of it works' for $t->children;
$t->done;
