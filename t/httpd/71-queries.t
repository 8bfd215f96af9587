#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# 2,000 streams with every kind of ending on each database: one row each, with what its client counted. Then, on PostgreSQL, the
# eight queries by which people watch their chat, as they have them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use IO::Handle;
use JSON::PP ();
use POSIX ();
use Time::HiRes qw(time);

my $CLIENTS = 10;
my $STREAMS = $ENV{CHATSTREAM_STREAMS} || 2000;
my $RECORD = 'ChatStreamRecord sessions transcript audit';
my $LONG = 60;    # whoever waits for that has found something

my $config = patient()
    . chat('/tokens', 'sse?tokens=9', $RECORD)
    . chat('/utf8', 'sse?tokens=40&text=utf8&split=50', $RECORD)
    . chat('/back', 'sse?script=stall', $RECORD, 'ChatStreamOnDisconnect abort 60s')
    . chat('/500', 'sse?status=500', $RECORD)
    . chat('/cut', 'sse?script=cut', $RECORD)
    . chat('/total', 'sse?script=stall', $RECORD, 'ChatStreamTimeout 150ms headers=900 first-token=900 idle=900')
    . chat('/stall', 'sse?script=stall', $RECORD, 'ChatStreamOnDisconnect abort 50ms')
    . chat('/whole', 'sse?tokens=6', $RECORD) =~ s/SetHandler chatstream$/SetHandler chatstream-complete/mr;

# ---- clients -------------------------------------------------------------------------------------------------------------------

my ($t, $name);

# One stream, in its way; what its client saw of it.
sub ask
{
    my ($number) = @_;
    my $way = $number % 10;
    my %saw = (way => $way, chunks => 0, bytes => 0);
    my @ask = (headers => [ 'X-Connection-Id' => "load-$number" ], timeout => $LONG);
    my $path = (qw(/tokens /utf8 /tokens /whole /back /500 /cut /total /stall /stall))[$way];
    my $started = time;
    my $stream = $t->stream("$path?message=question%20$number", @ask);
    $saw{id} = $stream->header('x-stream-id');
    if ($way == 3) {
        $saw{chunks} = 6;
        $saw{status} = $stream->json->{stream_id} ? 'completed' : '?';
    }
    elsif ($way == 4 || $way == 8 || $way == 9) {
        my $event = $stream->event_of('token');
        $saw{chunks} = 1;
        if ($way != 8) {
            $saw{bytes} = length $stream->so_far;
            $stream->abort;
        }
        if ($way == 9) {
            $saw{status} = 'disconnected';
            return \%saw;
        }
        if ($way == 4) {
            $stream = $t->stream($path, headers => [ 'Last-Event-ID' => $event->{id} ], timeout => $LONG);
            $saw{reconnects} = 1;
        }
        $t->request("$path?stream_id=$saw{id}", method => 'DELETE', timeout => $LONG);
    }
    for my $event ($stream->status == 200 && $way != 3 ? $stream->events : ()) {
        my $json = $event->{json} || {};
        $saw{chunks}++ if ($json->{type} // '') eq 'token';
        $saw{status} = 'completed' if ($json->{type} // '') eq 'complete';
        @saw{qw(code last)} = ($json->{code}, length("id: $event->{id}\nevent: $event->{event}\ndata: $event->{data}\n\n")) if ($json->{type} // '') eq 'error';
    }
    if ($stream->status != 200) {
        $saw{code} = $stream->json->{code};
    }
    # A document in the place of a stream is no part of it.
    $saw{bytes} += length $stream->body if $stream->status == 200;
    $saw{took} = time - $started;
    $saw{status} //= { timeout => 'timeout', cancelled => 'cancelled', upstream_error => 'error' }->{ $saw{code} // '' } // '?';
    $stream->close;
    return \%saw;
}

# Everything by several processes; { number => what was seen }.
sub load
{
    my @readers;
    for my $client (0 .. $CLIENTS - 1) {
        pipe my $reader, my $writer or die "pipe: $!";
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            my %saw;
            for (my $number = $client; $number < $STREAMS; $number += $CLIENTS) {
                # Each of them another way at the same time.
                my $turn = int($number / $CLIENTS);
                my $mixed = $turn * $CLIENTS + ($client + $turn) % $CLIENTS;
                $saw{$mixed} = eval { ask($mixed) } || { status => "died: $@" };
            }
            print $writer JSON::PP->new->encode(\%saw);
            $writer->flush;
            POSIX::_exit(0);
        }
        close $writer;
        push @readers, [ $pid, $reader ];
    }
    my %saw;
    for (@readers) {
        my ($pid, $reader) = @$_;
        my $text = do { local $/; <$reader> };
        waitpid $pid, 0;
        my $part = JSON::PP->new->decode($text || '{}');
        @saw{ keys %$part } = values %$part;
    }
    return \%saw;
}

# ---- against the rows ------------------------------------------------------------------------------------------------------------

sub few { return join "\n", @_ > 8 ? (@_[ 0 .. 7 ], 'and ' . (@_ - 8) . ' more') : @_ }

sub rows_are_right
{
    my ($saw) = @_;
    my $db = $t->database;
    my @died = grep { $saw->{$_}{status} !~ /^\w+$/ } sort { $a <=> $b } keys %$saw;
    is few(map { "$_ $saw->{$_}{status}" } @died), '', "$name: every stream had an end";
    is scalar keys %$saw, $STREAMS, "$name: $STREAMS streams";
    is $db->value('SELECT count(*) FROM streaming_sessions'), $STREAMS, "$name: as many rows";
    my %row = map { $_->{connection_id} => $_ } $db->query('SELECT * FROM streaming_sessions');
    my %wrong;
    for my $number (sort { $a <=> $b } keys %$saw) {
        my $seen = $saw->{$number};
        my $row = $row{"load-$number"} or push @{ $wrong{none} }, $number;
        $row ||= {};
        my %want = (
            status => $seen->{status}, chunk_count => $seen->{chunks}, bytes_sent => $seen->{bytes}, reconnects => $seen->{reconnects} || 0,
            error_code => $seen->{code} // ($seen->{status} eq 'disconnected' ? $row->{error_code} : ''), db_saved => 1,
            id => $seen->{id} // $row->{id},
        );
        for my $column (keys %want) {
            my $is = $row->{$column} // '';
            # Whose client left and came back: the end may have been sent to the connection that was gone, before that showed.
            next if $column eq 'bytes_sent' && $seen->{reconnects} && $is == $want{$column} + $seen->{last};
            push @{ $wrong{$column} }, "$number (way $seen->{way}): $is, its client $want{$column}" if $is ne ($want{$column} // '');
        }
        push @{ $wrong{duration} }, "$number: $row->{duration_ms} ms, its client $seen->{took} s"
            if defined $seen->{took} && ($row->{duration_ms} // 0) > $seen->{took} * 1000 + 5;
    }
    is few(@{ $wrong{$_} || [] }), '', "$name: $_" for qw(none id status error_code chunk_count bytes_sent reconnects db_saved duration);
    my %ways;
    $ways{ $_->{status} }++ for values %$saw;
    is join(' ', map { "$_ $ways{$_}" } sort keys %ways),
        join(' ', map { "$_->[0] " . $STREAMS * $_->[1] / 10 } [ cancelled => 2 ], [ completed => 4 ], [ disconnected => 1 ], [ error => 2 ], [ timeout => 1 ]),
        "$name: the mix";
    # Two messages each, where something was answered.
    is $db->value("SELECT count(*) FROM chat_messages WHERE role = 'user'"), $STREAMS, "$name: every question";
    is $db->value("SELECT count(*) FROM chat_messages WHERE role <> 'user'"), scalar(grep { $_->{chunks} } values %$saw), "$name: every answer";
    for my $event (qw(stream_open stream_close)) {
        is $db->value('SELECT count(DISTINCT stream_id) FROM audit_log WHERE event = ?', $event), $STREAMS, "$name: every $event";
    }
    return;
}

# ---- what people have --------------------------------------------------------------------------------------------------------------

my $HOUR = "created_at > NOW() - INTERVAL '1 hour'";

sub percentile
{
    my @sorted = sort { $a <=> $b } grep { defined } @_;
    my $at = 0.95 * $#sorted;
    my $low = int $at;
    return $sorted[$low] + ($at - $low) * (($sorted[ $low + 1 ] // $sorted[$low]) - $sorted[$low]);
}

sub queries
{
    my ($saw) = @_;
    my $db = $t->database;
    my @seen = values %$saw;
    my $share = sub { my ($status) = @_; return 100 * (grep { $_->{status} eq $status } @seen) / @seen };
    my @rows = $db->query('SELECT first_chunk_latency_ms, duration_ms FROM streaming_sessions');
    my $chunks = 0;
    $chunks += $_->{chunks} for @seen;
    for (
        [ 'completion rate', "SELECT COUNT(*) FILTER (WHERE status = 'completed') * 100.0 / COUNT(*) FROM streaming_sessions WHERE $HOUR", $share->('completed') ],
        [ 'error rate', "SELECT COUNT(*) FILTER (WHERE status = 'error') * 100.0 / COUNT(*) FROM streaming_sessions WHERE $HOUR", $share->('error') ],
        [ 'p95 of the first chunk', "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY first_chunk_latency_ms) FROM streaming_sessions WHERE $HOUR",
            percentile(map { $_->{first_chunk_latency_ms} } @rows) ],
        [ 'p95 of the duration', "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM streaming_sessions WHERE $HOUR",
            percentile(map { $_->{duration_ms} } @rows) ],
        [ 'save rate', "SELECT COUNT(*) FILTER (WHERE db_saved = true) * 100.0 / COUNT(*) FROM streaming_sessions WHERE $HOUR", 100 ],
        [ 'average chunk_count', "SELECT AVG(chunk_count) FROM streaming_sessions WHERE $HOUR", $chunks / @seen ],
        [ 'active', "SELECT COUNT(*) FROM streaming_sessions WHERE status = 'active'", 0 ],
        [ 'timeout rate', "SELECT COUNT(*) FILTER (WHERE status = 'timeout') * 100.0 / COUNT(*) FROM streaming_sessions WHERE $HOUR", $share->('timeout') ],
    ) {
        my ($what, $sql, $want) = @$_;
        my $value = $db->value($sql);
        cmp_ok abs($value - $want), '<', 1e-6, "$name: $what: $want" or diag $value;
    }
    # The first chunk came when a client had it; streams of no chunk have no latency.
    is $db->value('SELECT COUNT(*) FROM streaming_sessions WHERE first_chunk_latency_ms IS NULL'), scalar(grep { !$_->{chunks} } @seen),
        "$name: no latency where there was no chunk";
    cmp_ok $db->value('SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM streaming_sessions'
            . ' WHERE status <> ?', 'disconnected'), '<=', 1000 * percentile(map { $_->{took} } @seen) + 5,
        "$name: no longer than the clients waited";

    # And while some run.
    my @running = map { $t->stream('/stall?message=hi') } 1 .. 3;
    $_->event_of('token') for @running;
    my $active = "SELECT COUNT(*) FROM streaming_sessions WHERE status = 'active'";
    ok wait_until(sub { $db->value($active) == 3 }, 20), "$name: three are active";
    $_->abort for @running;
    ok wait_until(sub { $db->value($active) == 0 }, 20), "$name: and then none";
    return;
}

for my $kind (qw(pgsql sqlite3 mysql)) {
    $name = $kind;
    $t = ChatStream::Test->new(database => $kind, children => 4, config => $config, server_config => 'ChatStreamMaxStreams 400');
    $t->allow_log(qr/ended as (?:error \(upstream_error|timeout)/);
    $t->upstream->script(cut   => "token one\ntoken two\ncut\n");
    $t->upstream->script(stall => "token one\nstall\n");
    my $started = time;
    my $saw = load();
    my $loaded = time;
    ok $t->records_settled($LONG), "$name: all of it is in the database";
    diag sprintf '%s: %d streams in %.1f s, recorded %.1f s later', $name, $STREAMS, $loaded - $started, time - $loaded;
    rows_are_right($saw);
    queries($saw) if $kind eq 'pgsql';
    $t->check;
}
done_testing();
