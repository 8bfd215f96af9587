#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The database dies under load and comes back: no stream notices, and every row is there, once. What a full journal does, and what
# happens to a fact that the database will never take.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $SLOW = 30;
my $RECORD = 'ChatStreamRecord sessions transcript audit';

# Rows of a table, by their stream.
sub rows { my ($t, $sql) = @_; return map { ($_->{session_id} // $_->{id}) => $_ } $t->database->query($sql) }

# ---- kill -9 in the middle of a thousand streams ------------------------------------------------------------------------------

{
    my $t = ChatStream::Test->new(
        children => 2,
        database => 'pgsql',
        config   => patient() . chat('/long', 'sse?script=long', $RECORD) . chat('/short', 'sse?tokens=5', $RECORD),
    );
    my ($up, $db) = ($t->upstream, $t->database);
    $up->script(long => "token one\nwait away\ntoken two\nwait back\ntoken three\ndone\n");
    my @children = $t->children;
    my %sent;    # stream => what it was asked

    my $shorts = sub {
        my ($number, $name) = @_;
        my $ended = 0;
        while ($number > 0) {
            my $some = $number < 50 ? $number : 50;
            my %client = map { my $text = "question $name $number $_"; ($text => $t->open("/short?message=$text" =~ s/ /%20/gr)) } 1 .. $some;
            $number -= $some;
            for my $text (keys %client) {
                my @events = $client{$text}->events;
                $ended += $events[-1]{json}{type} eq 'complete';
                $sent{ $client{$text}->header('x-stream-id') } = $text;
                $client{$text}->close;
            }
        }
        return $ended;
    };

    my @long = map { $t->stream("/long?message=long$_") } 1 .. 20;
    $_->event_of('token') for @long;
    is $shorts->(300, 'before'), 300, 'three hundred streams, with the database there';
    is $t->health->{database}, 'ok', 'health says so';
    my @under_way = map { my $text = "under way $_"; [ $text, $t->open("/short?message=$text" =~ s/ /%20/gr) ] } 1 .. 50;
    $db->kill;
    for (@under_way) {
        my ($text, $client) = @$_;
        $client->answer;
        $sent{ $client->header('x-stream-id') } = $text;
        $client->close;
    }
    $up->signal('away');
    is join(' ', map { $_->event_of('token')->{json}{content} } @long), join(' ', ('two') x 20), 'streams under way go on without it';
    is $shorts->(400, 'away'), 400, 'and four hundred new ones come and go';
    my $health;
    ok wait_until(sub {
        $health = $t->health;
        return $health->{database} eq 'down' && $health->{journal}{bytes} > 0 && $health->{journal}{oldest_s} > 0;
    }, 10), 'health says: database down, so much waits in the journal, for so long' or diag explain $health;
    is $health->{status}, 'degraded', 'degraded, not down';
    my ($rc, $said) = $t->ctl('journal', 'show');
    is $rc, 0, 'the journal can be looked at';
    is scalar(grep { -e } glob $t->state_dir . '/*.corrupt'), 0, 'nothing in it is wrong';

    $db->start;
    is $shorts->(230, 'after'), 230, 'more streams while it comes back';
    $up->signal('back');
    is join(' ', map { $_->answer } @long), join(' ', ('three') x 20), 'the long ones end';
    $sent{ $_->header('x-stream-id') } = 'long' for @long;
    $_->close for @long;
    ok $t->records_settled($SLOW), 'all of it arrives' or diag $t->open_streams . ' open, ' . $t->waiting_facts . ' waiting';

    my %session = rows($t, 'SELECT * FROM streaming_sessions');
    is scalar(keys %sent), 1000, 'a thousand streams';
    is join(' ', sort keys %session), join(' ', sort keys %sent), 'a row for each, and no other';
    is scalar(grep { $_->{status} eq 'completed' && $_->{db_saved} && $_->{completed_at} } values %session), 1000, 'completed and saved';
    is $db->value('SELECT count(*) FROM chat_messages'), 2000, 'two messages each';
    my %question = rows($t, "SELECT * FROM chat_messages WHERE role = 'user'");
    is scalar(grep { my $text = $question{$_}{content}; $sent{$_} eq 'long' ? $text =~ /^long\d+$/ : $text eq $sent{$_} } keys %sent), 1000,
        'the question it was asked';
    my %answer = rows($t, "SELECT * FROM chat_messages WHERE role = 'assistant'");
    is scalar(grep { $sent{$_} ne 'long' || $answer{$_}{content} eq 'onetwothree' } keys %answer), 1000, 'and the answer';
    is scalar(grep { $_->{partial} } values %answer), 0, 'the whole of it';
    is $db->value("SELECT count(*) FROM audit_log WHERE event = '$_'"), 1000, "a row of the audit trail for each $_" for qw(stream_open stream_close);
    is join(' ', $t->children), "@children", 'the children are the same';
    ok wait_until(sub { my $now = $t->health; $now->{database} eq 'ok' && !$now->{journal}{bytes} && $now->{status} eq 'ok' }, 10), 'health says: all is well';

    # Two children, each with a connection of its own.
    my $log = $t->error_log;
    for my $what (qw(away back)) {
        my $times = () = $log =~ /chatstream: the database is $what/g;
        ok $times >= 1 && $times <= 2, "the log says once that it is $what" or diag "$times times";
    }
    $t->expect_log(qr/the database is away/, qr/the database is back/);
    $t->allow_log(qr/\[dbd:error\]|AH0063\d/);
    $t->check;
}

# ---- a full journal -------------------------------------------------------------------------------------------------------------

for my $mode (qw(refuse admit)) {
    my $t = ChatStream::Test->new(
        database      => 'pgsql',
        server_config => 'ChatStreamJournalMax ' . ($mode eq 'admit' ? '64k admit' : '64k'),
        config        => patient() . chat('/long', 'sse?script=long', $RECORD) . chat('/short', 'sse?tokens=2', $RECORD) . chat('/off', 'sse?tokens=2'),
    );
    my ($up, $db) = ($t->upstream, $t->database);
    $up->script(long => "token one\nwait go\ntoken two\ndone\n");
    my $long = $t->stream('/long?message=long');
    $long->event_of('token');
    ok wait_until(sub { $t->health->{journal}{bytes} == 0 && $t->health->{database} eq 'ok' }, 10), "$mode: the journal is empty";
    $db->kill;
    my ($recorded, $answer) = (1);
    for (1 .. 400) {
        $answer = $t->request('/short?message=hi');
        $recorded++ if $answer->status == 200;
        last if $mode eq 'refuse' ? $answer->status != 200 : $t->health->{records}{unrecorded};
    }
    ok wait_until(sub { $t->health->{journal}{full} }, 10), "$mode: it is full";
    if ($mode eq 'refuse') {
        is $answer->status, 503, 'refuse: a new stream is refused';
        is $answer->json->{code}, 'unavailable', 'refuse: as unavailable';
        ok $answer->header('retry-after'), 'refuse: to be tried again';
        is $t->stream('/-/health')->status, 503, 'refuse: health is down';
    }
    else {
        is $answer->status, 200, 'admit: a new stream is admitted';
        is $t->health->{status}, 'degraded', 'admit: health is degraded';
        my $counted = $t->health->{records}{unrecorded};
        is $t->request('/short?message=hi')->status, 200, 'admit: also the next';
        is $t->health->{records}{unrecorded}, $counted + 1, 'admit: it is counted';
        $recorded -= $counted;
    }
    is $t->request('/off?message=hi')->status, 200, "$mode: where nothing is recorded all goes on";
    $up->signal('go');
    is $long->answer, 'two', "$mode: so does a stream that is under way";
    $long->close;
    $db->start;
    ok wait_until(sub { $t->request('/short?message=hi')->status == 200 && ++$recorded && !$t->health->{journal}{full} }, $SLOW),
        "$mode: with the database new streams are there again";
    ok $t->records_settled($SLOW), "$mode: all of it arrives";
    is $db->value("SELECT count(*) FROM streaming_sessions WHERE status = 'completed'"), $recorded, "$mode: what was admitted to the records is in them"
        if $mode eq 'refuse';
    $t->allow_log(qr/the database is away/, qr/\[dbd:error\]|AH0063\d/);
    $t->check;
}

# ---- what the database will never take ---------------------------------------------------------------------------------------------

{
    my $t = ChatStream::Test->new(
        database => 'pgsql',
        records  => { journal => 0, audit => 0, openings => 0, sessions => 0 },
        config   => chat('/short', 'sse?tokens=2', $RECORD),
    );
    my $db = $t->database;
    $t->request('/short?message=first');
    ok $t->records_settled($SLOW), 'the tables are there';
    $db->do("ALTER TABLE chat_messages ADD CONSTRAINT site CHECK (content <> 'forbidden')");
    my @clients = map { $t->open('/short?message=' . ($_ == 13 ? 'forbidden' : "fine$_")) } 1 .. 40;
    $_->answer for @clients;
    my @ids = map { $_->header('x-stream-id') } @clients;
    $_->close for @clients;
    ok $t->records_settled($SLOW), 'a fact that the database refuses does not stop the others';
    is $db->value("SELECT count(*) FROM chat_messages WHERE role = 'user'"), 40, 'every other message is there';
    is $db->value("SELECT count(*) FROM streaming_sessions WHERE status = 'completed'"), 41, 'and every session';
    my @refused = glob $t->state_dir . '/*.refused';
    is scalar @refused, 1, 'it is set aside';
    like slurp($refused[0]), qr/forbidden/, 'whole';
    is $t->health->{records}{refused}, 1, 'and counted';
    $t->expect_log(qr/the database will not take a fact \(\w+ of stream $ids[12].*set aside/);
    $t->check;
}
done_testing();
