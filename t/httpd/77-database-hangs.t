#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A database that accepts and never answers: streams do not notice, neither do restarts and stops, and when it wakes up everything
# arrives.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use Time::HiRes qw(time);

my $SLOW = 30;
my $RECORD = 'ChatStreamRecord sessions transcript audit';
my $SCRIPT = "token one\nwait a\ntoken two\nwait b\ntoken three\ndone\n";

sub server
{
    my (%options) = @_;
    my $t = ChatStream::Test->new(
        children => 2,
        config   => patient() . chat('/chat', 'sse?script=two', $RECORD) . chat('/load', 'sse?tokens=5', $RECORD), %options,
    );
    $t->upstream->script(two => $SCRIPT);
    # Each child says so once; mod_dbd in its own words.
    $t->allow_log(qr/the database does not answer|the database is (?:away|back)/, qr/\[dbd:error\]|AH0063\d/,
        qr/streams of a writer that is gone were closed/);
    return $t;
}

# Streams from their first token to their last, handed over one by one.
sub streams_work
{
    my ($t, $what) = @_;
    my $up = $t->upstream;
    $up->reset;
    $up->script(two => $SCRIPT);
    my @streams = map { $t->stream('/chat?message=hi') } 1 .. 10;
    my @is = map { $_->event_of('token')->{json}{content} } @streams;
    $up->signal('a');
    push @is, map { $_->event_of('token')->{json}{content} } @streams;
    $up->signal('b');
    push @is, map { $_->answer } @streams;
    is "@is", join(' ', ('one') x 10, ('two') x 10, ('three') x 10), "$what: streams go on";
    my @short = map { $t->open('/load?message=hi') } 1 .. 100;
    is scalar(grep { my @events = $_->events; $events[-1]{json}{type} eq 'complete' } @short), 100, "$what: short ones as well";
    my @ids = map { $_->header('x-stream-id') } @streams, @short;
    $_->close for @streams, @short;
    return @ids;
}

sub all_completed
{
    my ($t, $what, @ids) = @_;
    ok $t->records_settled($SLOW), "$what: everything arrives" or diag $t->open_streams . ' open, ' . $t->waiting_facts . ' waiting';
    my %status = map { $_->{id} => $_->{status} } $t->database->query('SELECT id, status FROM streaming_sessions');
    is scalar(grep { ($status{$_} // '') eq 'completed' } @ids), scalar @ids, "$what: as completed";
    is $t->database->value("SELECT count(*) FROM audit_log WHERE event = 'stream_close'"), scalar(keys %status), "$what: once";
    return;
}

for my $kind (qw(pgsql mysql sqlite3)) {
    my $t = server(database => $kind);
    my $db = $t->database;
    my @ids = streams_work($t, "$kind, awake");
    ok $t->records_settled($SLOW), "$kind: all is in the database";

    $db->freeze;
    push @ids, streams_work($t, "$kind, hanging");
    push @ids, streams_work($t, "$kind, hanging still");
    ok wait_until(sub { $t->health->{journal}{bytes} > 0 }, 10), "$kind: health says that records wait";

    # A graceful restart: the old children end, although their connection never answers, and the new ones serve.
    my %old = map { $_ => 1 } $t->children;
    my $across = $t->stream('/chat?message=across');
    push @ids, $across->header('x-stream-id');
    $t->upstream->signal('a');
    $t->upstream->signal('b');
    $t->graceful;
    $across->answer;
    $across->close;
    push @ids, streams_work($t, "$kind, hanging, after a graceful restart");
    ok wait_until(sub { !grep { $old{$_} } $t->children }, 20), "$kind: the old children are gone";

    # And the end, with a stream under way.
    my $began = time;
    ok $t->stop(20), "$kind: httpd stops";
    my $took = time - $began;
    diag sprintf '%s: a stop took %.1f s', $kind, $took;
    cmp_ok $took, '<', 9, "$kind: before the parent's patience ends";
    unlike $t->error_log, qr/AH00046|SIGKILL|exit signal/, "$kind: nobody had to be killed";

    $db->thaw;
    $t->{stopped} = 0;
    $t->start;
    all_completed($t, $kind, @ids);

    # It wakes up under a server that runs.
    $db->freeze;
    my @more = streams_work($t, "$kind, hanging again");
    $db->thaw;
    all_completed($t, "$kind, awake again", @ids, @more);
    ok wait_until(sub { $t->health->{journal}{bytes} == 0 }, 10), "$kind: nothing waits any more";
    is $t->health->{database}, 'ok', "$kind: health says that it is there";
    $t->check;
}
done_testing();
