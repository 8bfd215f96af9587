#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 of the whole server under load, with the database there and away: the next one finishes what the records of the last one had
# open.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $SLOW = 30;
my $RECORD = 'ChatStreamRecord sessions transcript audit';

for my $kind (qw(pgsql sqlite3)) {
    for my $away ($kind eq 'pgsql' ? (0, 1) : 0) {
        my $name = "$kind, database " . ($away ? 'away' : 'there');
        my $t = ChatStream::Test->new(
            children => 2,
            database => $kind,
            records  => { openings => 0 },
            config   => patient() . chat('/chat', 'sse?script=two', $RECORD) . chat('/load', 'sse?tokens=10&rate=200', $RECORD),
        );
        my ($up, $db) = ($t->upstream, $t->database);
        $t->allow_log(qr/the database is (?:away|back)/, qr/streams of a writer that is gone were closed/, qr/\[dbd:error\]|AH0063\d|AH00098/);
        $up->script(two => "token one\nwait never\ndone\n");

        my @open = map { $t->stream('/chat?message=open') } 1 .. 10;
        $_->event_of('token') for @open;
        my @open_ids = map { $_->header('x-stream-id') } @open;
        my @done = map { $t->open('/load?message=done') } 1 .. 10;
        $_->answer for @done;
        my @done_ids = map { $_->header('x-stream-id') } @done;
        if ($away) {
            # What has reached the database before it goes does not matter; much of it must not be needed.
            $db->kill;
            my @more = map { $t->open('/load?message=later') } 1 .. 10;
            $_->answer for @more;
            push @done_ids, map { $_->header('x-stream-id') } @more;
            $_->close for @more;
        }
        # An end is in the journal a moment after its reader has seen it; until then only the shared memory knows.
        ok wait_until(sub { $t->open_streams == 10 }, 10), "$name: their ends are written down";
        my @load = map { $t->open('/load?message=load') } 1 .. 40;
        $_->next_event for @load[ 0 .. 19 ];

        # In one moment: the children must not see their parent die.
        my @family = ($t->httpd->pid, $t->children);
        kill 'STOP', @family;
        kill 'KILL', @family;
        ok wait_until(sub { !$t->httpd->alive && !grep { -e "/proc/$_" && (slurp("/proc/$_/stat") // '') !~ /\) Z/ } @family }, 10),
            "$name: the whole server is gone";
        $_->close for @open, @done, @load;
        my @left = glob $t->state_dir . '/*.journal';
        cmp_ok scalar @left, '>=', 2, "$name: the journals are there";
        if ($away) {
            $db->start;
            my $active = eval { $db->value("SELECT count(*) FROM streaming_sessions WHERE status = 'active'") } // 0;
            note "$active rows are active before the restart";
        }

        if ($kind eq 'pgsql') {
            # The tool takes what is there; what is open waits for a server.
            my ($rc, $said, $complaint) = $t->ctl('journal', 'replay');
            is $rc, 0, "$name: chatstreamctl replays the journals" or diag "$said$complaint";
            is $t->waiting_facts, 0, "$name: all of them";
            cmp_ok $t->open_streams, '>=', 10, "$name: and leaves the list of open streams";
        }

        $t->start;
        ok $t->records_settled($SLOW), "$name: the next server brings all into the database"
            or diag $t->open_streams . ' open, ' . $t->waiting_facts . ' waiting';
        my %row = map { $_->{id} => $_ } $db->query('SELECT * FROM streaming_sessions');
        is scalar(grep { $_->{status} eq 'active' } values %row), 0, "$name: no row is active";
        is scalar(grep { ($row{$_}{error_code} // '') eq 'worker_lost' } @open_ids), 10, "$name: open streams are lost";
        is scalar(grep { ($row{$_}{status} // '') eq 'completed' } @done_ids), scalar @done_ids, "$name: completed ones completed";
        my %count;
        $count{ $_->{error_code} || $_->{status} }++ for values %row;
        note join ', ', map { "$_ $count{$_}" } sort keys %count;
        is join(' ', grep { !/^(?:completed|worker_lost)$/ } sort keys %count), '', "$name: there are no other ends";
        is $db->value(
            'SELECT count(*) FROM (SELECT stream_id FROM audit_log WHERE event = ? GROUP BY stream_id HAVING count(*) <> 1) odd',
            'stream_close',
        ), 0, "$name: each has one end in the audit trail";
        is $db->value('SELECT count(*) FROM audit_log WHERE event = ?', 'stream_close'), scalar(keys %row), "$name: none has no end";
        my ($rc, $said, $complaint) = $t->ctl('audit', 'verify');
        is $rc, 0, "$name: the audit trail verifies" or diag "$said$complaint";
        my $stream = $t->stream('/load?message=new');
        $stream->answer;
        is $t->session($stream->header('x-stream-id'))->{status}, 'completed', "$name: and new streams are recorded";
        $stream->close;
        ok wait_until(sub { 2 == (my @locks = glob $t->state_dir . '/*.lock') }, $SLOW), "$name: the dead server's journals are gone";
        $t->check;
    }
}
done_testing();
