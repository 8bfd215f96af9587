#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 of children while they record, with the database there and away: each stream has its one row, what had ended is what it
# was, what was lost is worker_lost with the answer as far as the shared log has it, and nothing stays held for ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Time::HiRes qw(time);

my $SLOW = 30;    # bound on what takes seconds
my $RECORD = 'ChatStreamRecord sessions transcript audit';
my $seed = $ENV{CHATSTREAM_SEED} || time % 100000;
srand $seed;
diag "seed $seed";

my $t = ChatStream::Test->new(
    children => 2,
    database => 'pgsql',
    config   => patient() . chat('/chat', 'sse?script=two', $RECORD, 'ChatStreamOnDisconnect detach')
        . chat('/load', 'sse?tokens=20&size=40&rate=100', $RECORD, 'ChatStreamReplay 64k 1'),
);
my ($up, $db) = ($t->upstream, $t->database);
# Who is killed has told the parent nothing; a journal changes hands.
$t->allow_log(
    qr/a child was lost, and \d+ streams with it/, qr/streams of a writer that is gone were closed/, qr/the database is (?:away|back)/,
    qr/\[dbd:error\]|AH0063\d/,
);
$up->script(two => "token one\nwait go\ntoken two\ndone\n");

sub rows { my %rows = map { $_->{id} => $_ } $db->query('SELECT * FROM streaming_sessions'); return \%rows }

sub answers
{
    return { map { $_->{session_id} => $_ } $db->query("SELECT * FROM chat_messages WHERE role = 'assistant'") };
}

# ---- one child, twenty streams of each ------------------------------------------------------------------------------------

my ($lost, $other) = $t->children;
my @lost = map { $t->stream_on($lost, '/chat?message=lost') } 1 .. 20;
my @safe = map { $t->stream_on($other, '/chat?message=safe') } 1 .. 5;
$_->event_of('token') for @lost, @safe;
my @lost_ids = map { $_->header('x-stream-id') } @lost;
my @safe_ids = map { $_->header('x-stream-id') } @safe;
ok wait_until(sub { 25 == grep { $_->{status} eq 'active' } values %{ rows() } }, $SLOW), 'streams under way have rows';
$t->kill_child('KILL', $lost);
ok wait_until(sub { !grep { rows()->{$_}{status} eq 'active' } @lost_ids }, $SLOW), 'the rows of a child that was killed are finished';
my ($rows, $answers) = (rows(), answers());
is scalar(grep { "$rows->{$_}{status} $rows->{$_}{error_code}" eq 'error worker_lost' } @lost_ids), 20, 'as lost';
is scalar(grep { $rows->{$_}{chunk_count} == 1 && $rows->{$_}{completed_at} && $rows->{$_}{db_saved} } @lost_ids), 20,
    'with what is known of them';
is scalar(grep { ($answers->{$_}{content} // '') eq 'one' && $answers->{$_}{partial} } @lost_ids), 20,
    'and the part of the answer that had come';
is scalar(grep { $rows->{$_}{status} eq 'active' } @safe_ids), 5, 'the other child has not noticed';
$up->signal('go');
is $_->answer, 'two', 'its streams end well' for @safe;
ok $t->records_settled($SLOW), 'all is in the database';
$rows = rows();
is scalar(grep { $rows->{$_}{status} eq 'completed' } @safe_ids), 5, 'they are completed in the records, too';
$_->close for @lost, @safe;

# ---- at random, the database there or away ----------------------------------------------------------------------------------

my %seen;    # stream => how its client saw it end
my $children = sub { wait_until(sub { $t->children == 2 }, $SLOW) };
$up->reset;
$up->script(two => "token one\nwait go\ntoken two\ndone\n");
for my $round (1 .. 6) {
    my $away = $round == 3 || $round == 4 || $round == 6;
    ok $children->(), "round $round: two children";
    my @load = map { $t->open('/load?message=hi') } 1 .. 30;
    my @long = map { $t->open('/chat?message=hi') } 1 .. 6;
    $_->next_event for @load[ 0 .. rand @load ];
    # Sometimes first the database goes, sometimes the child, once both.
    $db->kill if $away && $round != 4;
    my @victims = ($t->children)[ $round == 5 ? (0, 1) : int rand 2 ];
    $t->kill_child('KILL', $_) for @victims;
    $db->kill if $away && $round == 4;
    for my $client (@load) {
        my @events = eval { $client->events($SLOW) };
        my $id = eval { $client->header('x-stream-id') };
        my $last = $events[-1];
        $seen{$id} = $client->complete && $last ? $last->{json}{code} || 'complete' : 'cut' if $id;
        $client->close;
    }
    for my $client (@long) {
        my $id = eval { $client->header('x-stream-id') };
        $seen{$id} = 'left' if $id;
        $client->close;
    }
    $db->start if $away;
}
ok $children->(), 'two children at the end';
$up->signal('go');
ok $t->records_settled($SLOW), 'all is in the database' or diag $t->open_streams . ' open, ' . $t->waiting_facts . ' waiting';
$rows = rows();
my %odd;
for my $id (keys %seen) {
    my $row = $rows->{$id};
    my $is = !$row ? 'no row' : $row->{error_code} || $row->{status};
    # Who was cut off may have been so close to the end that it was an end; whoever left was let go on.
    my $may = { complete => 'completed', worker_lost => 'worker_lost', cut => 'completed|worker_lost|disconnected', left => 'completed|worker_lost' }
        ->{ $seen{$id} };
    $odd{"$seen{$id}: $is"}++ if !defined $may || $is !~ /^(?:$may)$/;
}
is join(', ', map { "$_ ($odd{$_})" } sort keys %odd), '', 'each stream that a client saw is in the records as that client saw it';
my %count;
$count{ $_->{error_code} || $_->{status} }++ for values %$rows;
note join ', ', map { "$_ $count{$_}" } sort keys %count;
is scalar(grep { !/^(?:completed|worker_lost|disconnected)$/ } keys %count), 0, 'and there are no other ends';
is $db->value(
    "SELECT count(*) FROM streaming_sessions s WHERE NOT EXISTS"
        . " (SELECT 1 FROM chat_messages m WHERE m.session_id = s.id AND m.role = 'user')",
), $db->value(
    # Killed between the list of open streams and the journal: nobody had been asked anything yet.
    "SELECT count(*) FROM streaming_sessions s WHERE NOT EXISTS (SELECT 1 FROM audit_log a WHERE a.stream_id = s.id AND a.event = 'stream_open')",
), 'every stream that was begun has its question';
is $db->value(
    'SELECT count(*) FROM (SELECT stream_id FROM audit_log WHERE event = ? GROUP BY stream_id HAVING count(*) <> 1) odd', 'stream_close',
), 0, 'and one end in the audit trail';
is $db->value('SELECT count(*) FROM audit_log WHERE event = ?', 'stream_close'), scalar(keys %$rows), 'which none is without';
my ($rc, $said, $complaint) = $t->ctl('audit', 'verify');
is $rc, 0, 'which verifies' or diag "$said$complaint";

# ---- nothing is left ---------------------------------------------------------------------------------------------------------

my $health;
ok wait_until(sub {
    $health = $t->health;
    return !$health->{streams}{active} && $health->{arena}{blocks} - $health->{arena}{free} <= $health->{streams}{kept};
}, $SLOW), 'no stream is left, and no block' or diag explain $health;
ok wait_until(sub { my %chains = map { m{/([0-9a-f-]{36})} ? ($1 => 1) : () } glob $t->state_dir . '/*.lock'; keys %chains == 2 }, $SLOW),
    'only the two children have a journal';
is scalar(my @open = glob $t->state_dir . '/*.open'), 2, 'and a list of open streams';
is $t->stream_on($_, '/load?message=hi')->event_of('complete')->{json}{type}, 'complete', 'both work' for $t->children;
$t->done;
