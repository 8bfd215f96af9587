#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The audit trail proves what it says: chains written by the real journal and store verify, every way of tampering is found with the
# right row named, and retention and erasure leave a trail that still verifies. On all three databases.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", "$FindBin::Bin/lib";
use ChatStream::Database;
use Digest::SHA qw(sha256_hex);
use Encode qw(encode_utf8);
use File::Temp ();
use IPC::Open2 qw(open2);
use IPC::Open3 qw(open3);
use JSON::PP ();
use Symbol qw(gensym);
use Test::More;

my $build = $ENV{CHATSTREAM_BUILDDIR} || "$FindBin::Bin/../..";
my $ctl = $ENV{CHATSTREAM_CTL} || "$build/chatstreamctl";
my $writer = $ENV{CHATSTREAM_RECORD_WRITER} || "$build/t/unit/record_writer";
-x $_ or die "$_ is not there: build it\n" for $ctl, $writer;
local $SIG{ALRM} = sub { die "the test hangs\n" };
local $SIG{PIPE} = 'IGNORE';
alarm 600;

my ($db, $dir, $state);
my (%chain, $in, $out, $pid);

# ---- programs ----

sub run
{
    my @command = @_;
    my ($from, $err) = (undef, gensym);
    my $child = open3(my $to, $from, $err, 'timeout', 60, @command);
    close $to;
    my $said = do { local $/; <$from> } // '';
    my $complaint = do { local $/; <$err> } // '';
    waitpid $child, 0;
    return ($? >> 8, $said, $complaint);
}

sub ctl { return run($ctl, '--db', $db->ctl, @_) }

# Findings of audit verify, each "<name of chain> <row> <words>".
sub verify
{
    my (@options) = @_;
    my ($rc, $said, $complaint) = ctl('--json', @options, 'audit', 'verify');
    my $result = eval { JSON::PP::decode_json($said) } or die "audit verify: exit $rc, $said$complaint";
    my %name = reverse %chain;
    my @findings = map { ($name{ $_->{chain} } // $_->{chain}) . " $_->{seq} $_->{what}" } @{ $result->{findings} };
    is $rc, @findings ? 1 : 0, 'the exit code says whether there are findings' if $rc != (@findings ? 1 : 0);
    return ($result, @findings);
}

sub clean_ok
{
    my ($rows, $what) = @_;
    for my $options ([], [ '--state', $state ]) {
        my ($result, @findings) = verify(@$options);
        is_deeply \@findings, [], "$what: verifies" . (@$options ? ' with the state directory' : '');
        is $result->{rows}, $rows, "$what: all $rows rows were looked at" if defined $rows && !@$options;
    }
    return;
}

# The journals' writer: has the rights of the server's children.
sub start_writer
{
    my @as = $> == 0 ? (qw(setpriv --reuid www-data --regid www-data --clear-groups --)) : ();
    $pid = open2($out, $in, 'timeout', 300, @as, $writer, $state, split /:/, $db->ctl, 2);
    my $hello = <$out> // '';
    $hello =~ /^ok/ or die "the writer does not start\n";
    return;
}

sub step
{
    my ($line) = @_;
    print $in "$line\n";
    $in->flush;
    my $answer = <$out> // "error gone\n";
    $answer =~ /^ok ?(.*)/ or die "$line: $answer";
    return $1;
}

sub chain { my ($name) = @_; $chain{$name} = step("chain $name"); return }
sub stop_writer { close $in; waitpid $pid, 0; return }

# ---- tables ----

my @log = qw(id ts chain seq event stream_id user_key user_email ip query_hash detail salt identity_hash prev_hash hash);
my @chains = qw(chain node started_at updated_at head_seq head_hash base_seq base_hash);

sub save { return [ map { my ($table, @columns) = @$_; [ $table, \@columns, [ $db->query("SELECT " . join(',', @columns) . " FROM $table") ] ] }
    [ 'audit_log', @log ], [ 'audit_chains', @chains ] ] }

sub insert
{
    my ($table, $columns, $row) = @_;
    my $override = $db->driver eq 'pgsql' && $table eq 'audit_log' ? ' OVERRIDING SYSTEM VALUE' : '';
    return $db->do("INSERT INTO $table (" . join(',', @$columns) . ")$override VALUES (" . join(',', ('?') x @$columns) . ')',
        @{$row}{@$columns});
}

sub restore
{
    my ($saved) = @_;
    $db->do('BEGIN');
    for my $part (@$saved) {
        my ($table, $columns, $rows) = @$part;
        $db->do("DELETE FROM $table");
        insert($table, $columns, $_) for @$rows;
    }
    $db->do('COMMIT');
    return;
}

sub row { my ($name, $seq) = @_; return ($db->query('SELECT ' . join(',', @log) . ' FROM audit_log WHERE chain = ? AND seq = ?', $chain{$name}, $seq))[0] }

# What the documentation says a hash is, written a second time.
sub hash_of { return sha256_hex(join '', map { defined $_ ? length(encode_utf8 $_) . ':' . encode_utf8 $_ : '-' } @_) }

sub canonical { my ($row) = @_; return $row->{ts} =~ s/ /T/r =~ s/\+00$//r =~ s/(T\d\d:\d\d:\d\d)$/$1.0/r =~ s/\.(\d+)$/'.' . substr("${1}000000", 0, 6)/er . 'Z' }

sub row_hash
{
    my ($row) = @_;
    return hash_of($row->{prev_hash}, $row->{chain}, $row->{seq}, canonical($row), $row->{event}, $row->{stream_id}, $row->{detail}, $row->{identity_hash});
}

# Changes something, looks, and puts it back. Expected: patterns on findings, each of which has to be met; the first finding has
# to be the first expected.
sub tampered
{
    my ($what, $change, $options, @expected) = @_;
    my $saved = save();
    $change->();
    my (undef, @findings) = verify(@$options);
    restore($saved);
    if (!@expected) {
        is_deeply \@findings, [], "$what: not seen";
        return;
    }
    like $findings[0] // 'nothing was found', $expected[0], "$what: found, and the right row named";
    for my $pattern (@expected[ 1 .. $#expected ]) {
        ok scalar(grep { $_ =~ $pattern } @findings), "$what: $pattern" or diag join "\n", @findings;
    }
    return;
}

sub set { my ($name, $seq, $column, $value) = @_; return sub { $db->do("UPDATE audit_log SET $column = ? WHERE chain = ? AND seq = ?", $value, $chain{$name}, $seq) == 1 or die "no such row" } }

# ---- writing: three chains that overlap in time, and are anchored ----

sub write_chains
{
    chain($_) for qw(a b);
    step('fact a open event=stream_open stream_id=s1 user_key=alice user_email=alice@example.org query_hash=' . 'a1' x 32 . ' message=secret-of-alice profile=p');
    step('fact a close event=stream_close stream_id=s1 status=completed answer=answer-to-alice duration_ms=7');
    step("fact a incident event=auth_failed ip=192.0.2.$_ detail={\"n\":$_}") for 3 .. 8;
    step('fact b open event=stream_open stream_id=s2 user_key=bob query_hash=' . 'b2' x 32 . ' message=of-bob');
    step('fact a incident event=denied user_key=alice ip=192.0.2.77');
    step('fact b close event=stream_close stream_id=s2 status=error error_code=upstream_error');
    step('fact a incident event=cancel stream_id=s1');
    step('fact b incident event=rate_limited user_key=bob ip=192.0.2.9') for 3 .. 5;
    step('fact a incident event=reconnect stream_id=s1 user_key=alice') for 11 .. 12;
    step("apply $_") for qw(a b);
    step("close $_") for qw(a b);
    chain('c');
    step('fact c incident event=auth_ok user_key=alice ip=192.0.2.78');
    step('fact c incident event=auth_failed ip=192.0.2.79') for 2 .. 3;
    step('apply c');
    step('close c');
    return;
}

sub check_written
{
    my @rows = $db->query('SELECT ' . join(',', @log) . ' FROM audit_log');
    is scalar(@rows), 20, 'twenty rows were written';
    is_deeply [ grep { row_hash($_) ne $_->{hash} } @rows ], [], 'their hashes are what the documentation says';
    is_deeply [ grep { hash_of(@{$_}{qw(salt user_key user_email ip query_hash)}) ne $_->{identity_hash} } @rows ], [], 'and their identities';
    my $anchors = JSON::PP::decode_json(row('c', 1)->{detail})->{anchors};
    is_deeply { map { $_->{chain} => $_->{seq} } @$anchors }, { $chain{a} => 12, $chain{b} => 5 }, 'the third chain anchors the other two';
    clean_ok(20, 'untouched');
    return;
}

# ---- tampering ----

sub check_columns
{
    my %other = (
        event => 'denied', stream_id => 's9', detail => '{"n":9}', user_key => 'mallory', user_email => 'm@example.org', ip => '192.0.2.99',
        query_hash => 'cc' x 32, salt => 'dd' x 16, identity_hash => 'ee' x 32, prev_hash => 'ff' x 32, hash => '12' x 32,
        ts => $db->driver eq 'pgsql' ? '2020-01-01 00:00:00.000001+00' : '2020-01-01 00:00:00.000001',
    );
    tampered("changed $_", set('a', 5, $_, $other{$_}), [], qr/^a 5 was changed/) for sort keys %other;
    tampered("$_ taken away", set('a', 5, $_, undef), [], qr/^a 5 was changed/) for qw(ip detail);
    tampered('changed detail of the first row', set('c', 1, 'detail', '{"anchors":[]}'), [], qr/^c 1 was changed/);
    tampered('another name for the chain', sub { $db->do('UPDATE audit_log SET chain = ? WHERE chain = ?', $chain{b} =~ tr/0-9/9876543210/r, $chain{b}) },
        [], qr/^b 0 was removed/, qr/audit_chains does not know it/);
    tampered('a row rewritten with a right hash', sub {
        my $row = row('a', 5);
        $row->{event} = 'auth_ok';
        $db->do('UPDATE audit_log SET event = ?, hash = ? WHERE chain = ? AND seq = 5', $row->{event}, row_hash($row), $chain{a});
    }, [], qr/^a 6 does not continue the row before it/);
    tampered('the last row rewritten with a right hash', sub {
        my $row = row('a', 12);
        $row->{event} = 'auth_ok';
        $db->do('UPDATE audit_log SET event = ?, hash = ? WHERE chain = ? AND seq = 12', $row->{event}, row_hash($row), $chain{a});
    }, [], qr/^a 12 /, qr/^a 12 .*head.*audit_chains/, qr/^a 12 .*row 1 of chain $chain{c}/);
    tampered('a row put back in time', sub {
        my $row = row('a', 5);
        $row->{ts} = '2020-01-01 00:00:00.000001';
        $db->do('UPDATE audit_log SET ts = ?, hash = ? WHERE chain = ? AND seq = 5', $row->{ts} . ($db->driver eq 'pgsql' ? '+00' : ''), row_hash($row), $chain{a});
    }, [], qr/^a 5 is earlier/, qr/^a 6 /);
    tampered('two fields change places', sub {
        $db->do("UPDATE audit_log SET user_key = ip, ip = NULL WHERE chain = ? AND seq = 5", $chain{a});
    }, [], qr/^a 5 was changed/);
    return;
}

sub check_rows
{
    my $drop = sub { my ($name, $where) = @_; return sub { $db->do("DELETE FROM audit_log WHERE chain = ? AND $where", $chain{$name}) } };
    tampered('a deleted row', $drop->('a', 'seq = 5'), [], qr/^a 6 row 5 before it is missing/);
    tampered('two deleted rows', $drop->('a', 'seq IN (5, 6)'), [], qr/^a 7 rows 5 to 6 before it are missing/);
    tampered('a deleted first row', $drop->('b', 'seq = 1'), [], qr/^b 2 row 1 before it is missing/);
    tampered('a deleted tail', $drop->('c', 'seq = 3'), [], qr/^c 2 is the last one, rows 3 to 3 after it are missing/);
    tampered('a deleted tail that is anchored', $drop->('a', 'seq > 10'), [], qr/^a 10 /, qr/^a 12 is missing: row 1 of chain $chain{c} remembers it/);
    my $cut = sub {
        my ($name, $seq) = @_;
        $drop->($name, "seq > $seq")->();
        $db->do('UPDATE audit_chains SET head_seq = ?, head_hash = ? WHERE chain = ?', $seq, row($name, $seq)->{hash}, $chain{$name});
    };
    tampered('a deleted tail, head and all', sub { $cut->('a', 10) }, [], qr/^a 12 is missing: row 1 of chain $chain{c} remembers it/);
    tampered('the newest tail, head and all', sub { $cut->('c', 2) }, []);
    tampered('the newest tail, head and all, and the state directory asked', sub { $cut->('c', 2) }, [ '--state', $state ],
        qr/^c 3 is missing: the state directory remembers it/);
    tampered('swapped rows', sub {
        $db->do('UPDATE audit_log SET seq = ? WHERE chain = ? AND seq = ?', @$_) for [ 99, $chain{a}, 4 ], [ 4, $chain{a}, 5 ], [ 5, $chain{a}, 99 ];
    }, [], qr/^a 4 was changed/, qr/^a 5 was changed/);
    tampered('swapped contents', sub {
        my ($four, $five) = (row('a', 4), row('a', 5));
        my @columns = grep { !/^(?:id|seq|chain)$/ } @log;
        $db->do('UPDATE audit_log SET ' . join(',', map {"$_ = ?"} @columns) . ' WHERE chain = ? AND seq = ?', @{ $_->[0] }{@columns}, $chain{a}, $_->[1])
            for [ $five, 4 ], [ $four, 5 ];
    }, [], qr/^a 4 was changed/);
    tampered('a row inserted behind the last', sub {
        my $row = row('c', 3);
        @{$row}{qw(id seq prev_hash)} = (999, 4, $row->{hash});
        insert('audit_log', \@log, { %$row, hash => row_hash($row) });
    }, [], qr/^c 4 lies behind the chain's head, which is 3/);
    tampered('a row inserted in between', sub {
        $db->do('UPDATE audit_log SET seq = seq + 100 WHERE chain = ? AND seq > 5', $chain{a});
        $db->do('UPDATE audit_log SET seq = seq - 99 WHERE chain = ? AND seq > 100', $chain{a});
        my $row = row('a', 5);
        @{$row}{qw(id seq prev_hash)} = (999, 6, $row->{hash});
        insert('audit_log', \@log, { %$row, hash => row_hash($row) });
    }, [], qr/^a 7 /);
    tampered('a row inserted before the first', sub {
        my $row = row('a', 1);
        @{$row}{qw(id seq)} = (999, 0);
        insert('audit_log', \@log, { %$row, hash => row_hash($row) });
    }, [], qr/^a 0 lies before the first row/);
    tampered('a row in a chain of its own', sub {
        my $row = row('a', 1);
        @{$row}{qw(id chain seq)} = (999, 'new', 1);
        insert('audit_log', \@log, { %$row, hash => row_hash($row) });
    }, [], qr/^new 0 has rows, and audit_chains does not know it/);
    tampered('a row in the chain without a name', sub {
        my $row = row('a', 1);
        @{$row}{qw(id chain seq)} = (999, '', 1);
        insert('audit_log', \@log, { %$row, hash => row_hash($row) });
    }, [], qr/^ 0 has rows/);
    return;
}

sub check_chains
{
    my $remove = sub {
        my ($name, $entry) = @_;
        $db->do('DELETE FROM audit_log WHERE chain = ?', $chain{$name});
        $db->do('DELETE FROM audit_chains WHERE chain = ?', $chain{$name}) if $entry;
    };
    tampered('a removed chain', sub { $remove->('b', 0) }, [], qr/^b 0 was removed: rows 1 to 5 are missing/);
    tampered('a removed chain, entry and all', sub { $remove->('b', 1) }, [], qr/^b 0 was removed: row 1 of chain $chain{c} remembers its row 5/);
    tampered('the newest chain, entry and all', sub { $remove->('c', 1) }, []);
    tampered('the newest chain, entry and all, and the state directory asked', sub { $remove->('c', 1) }, [ '--state', $state ],
        qr/^c 0 was removed: the state directory remembers its row 3/);
    tampered('only the entry removed', sub { $db->do('DELETE FROM audit_chains WHERE chain = ?', $chain{a}) }, [], qr/^a 0 .*audit_chains does not know it/);
    tampered('a base that nobody announced', sub {
        $db->do('UPDATE audit_chains SET base_seq = 3, base_hash = ? WHERE chain = ?', row('a', 3)->{hash}, $chain{a});
        $db->do('DELETE FROM audit_log WHERE chain = ? AND seq <= 3', $chain{a});
    }, [], qr/^a 4 .*no retention row says so/);
    tampered('a chain that is said to have been purged', sub {
        $remove->('b', 0);
        $db->do('UPDATE audit_chains SET base_seq = head_seq, base_hash = head_hash WHERE chain = ?', $chain{b});
    }, [], qr/^b 6 .*no retention row says so/);
    tampered('a row made anonymous by hand', sub {
        $db->do('UPDATE audit_log SET user_key = NULL, user_email = NULL, ip = NULL, query_hash = NULL, salt = NULL WHERE chain = ? AND seq = 9', $chain{a});
    }, [], qr/^a 9 was made anonymous, and no erase row says so/);
    return;
}

# ---- a person ----

sub names_alice
{
    my @found;
    for my $table (qw(audit_log streaming_sessions chat_messages)) {
        for my $row ($db->query("SELECT * FROM $table")) {
            push @found, map {"$table.$_"} grep { defined $row->{$_} && $row->{$_} =~ /alice|192\.0\.2\.7[78]|(?:a1){32}/ } keys %$row;
        }
    }
    @found = sort @found;
    return @found;
}

sub erase_alice
{
    my ($when, $rows) = @_;
    my @before = names_alice();
    ok scalar(@before), "$when: the database names her";
    my ($rc, $said, $complaint) = ctl('--json', '--state', $state, 'gdpr', 'erase', '--user', 'alice');
    is $rc, 0, "$when: erased" or diag $complaint;
    my $counts = JSON::PP::decode_json($said);
    is $counts->{audit_rows}, $rows, "$when: $rows audit rows were made anonymous";
    is_deeply [ names_alice() ], [], "$when: nothing in the database is hers any more";
    return;
}

sub check_erase
{
    my ($rc, $said) = ctl('gdpr', 'export', '--user', 'alice');
    my $document = JSON::PP::decode_json($said);
    is $rc, 0, 'export';
    is_deeply [ map { $_->{content} } sort { $a->{role} cmp $b->{role} } @{ $document->{messages} } ], [ 'answer-to-alice', 'secret-of-alice' ],
        'the export has the conversation';
    is_deeply [ map { "$_->{id} $_->{status} $_->{duration_ms}" } @{ $document->{sessions} } ], ['s1 completed 7'], 'the session';
    my %name = reverse %chain;
    is_deeply [ sort map { "$name{$_->{chain}}$_->{seq}" } @{ $document->{audit} } ], [ sort qw(a1 a2 a9 a10 a11 a12 c1) ],
        'and the audit rows, also those that carry only the stream';
    unlike $said, qr/bob/, 'and nobody else';

    erase_alice('first', 7);
    is $db->value("SELECT COUNT(*) FROM streaming_sessions WHERE user_key = 'bob'"), 1, 'others keep their sessions';
    is $db->value("SELECT COUNT(*) FROM chat_messages WHERE user_key = 'bob'"), 1, 'and their messages';
    is $db->value("SELECT COUNT(*) FROM audit_log WHERE user_key = 'bob'"), 4, 'and their audit rows';
    my @erase = $db->query("SELECT * FROM audit_log WHERE event = 'erase' ORDER BY id");
    my $named = JSON::PP::decode_json($erase[0]{detail})->{rows};
    my %rows = map { $name{$_} => $named->{$_} } keys %$named;
    is_deeply \%rows, { a => '2,10' }, 'the first erase row names the rows that carried only the stream';
    clean_ok(20 + @erase, 'after an erasure');
    tampered('an erase row deleted', sub { $db->do('DELETE FROM audit_log WHERE id = ?', $erase[0]{id}) }, [], qr/^a 2 was made anonymous/);
    tampered('a name put into an erased row', set('a', 9, 'user_key', 'mallory'), [], qr/^a 9 was changed/);
    tampered('an erase row that names one more', sub {
        $db->do('UPDATE audit_log SET detail = ? WHERE id = ?', $erase[0]{detail} =~ s/2,10/2-10/r, $erase[0]{id});
    }, [], qr/ $erase[0]{seq} was changed/);
    my ($again, $counts) = ctl('--json', '--state', $state, 'gdpr', 'erase', '--user', 'alice');
    is_deeply [ $again, JSON::PP::decode_json($counts) ], [ 0, { sessions => 0, messages => 0, audit_rows => 0, active => 0 } ], 'again: nothing left';
    return;
}

# ---- retention ----

# ISO 8601 of a microsecond.
sub iso { my ($us) = @_; my @t = gmtime $us / 1_000_000; return sprintf '%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ], $us % 1_000_000 }

sub purge
{
    my ($before) = @_;
    my ($rc, $said, $complaint) = ctl('--json', '--state', $state, 'purge', '--before', iso($before));
    is $rc, 0, 'purge' or diag $complaint;
    return JSON::PP::decode_json($said);
}

sub count { return $db->value('SELECT COUNT(*) FROM audit_log') }

sub check_retention
{
    start_writer();
    chain('d');
    step("fact d incident event=auth_failed ip=192.0.2.$_") for 1 .. 3;
    step('fact d open event=stream_open stream_id=s4 user_key=alice user_email=alice@example.org message=second-of-alice');
    step('apply d');
    my $first = step('now');
    my $before = count();
    step('fact d close event=stream_close stream_id=s4 status=cancelled');
    step("fact d incident event=auth_failed ip=192.0.2.$_") for 6 .. 9;
    step('apply d');
    my $second = step('now');
    step('fact d incident event=denied user_key=alice');
    step('apply d');

    # A purge that dies after its row was written to the journal, and one that dies before it has removed anything.
    chain('p');
    is step("purge p $first"), '2 0', 'a first call removes the sessions of then, and no audit row';
    clean_ok(count(), 'announced, not yet in the database');
    stop_writer();
    my ($rc, $said) = ctl('--json', '--state', $state, 'journal', 'replay');
    is $rc, 0, 'the journals of a writer that died are replayed';
    cmp_ok JSON::PP::decode_json($said)->{chains}, '>=', 2, 'both of them';
    clean_ok(count(), 'announced, nothing removed yet');

    my $all = count();
    my $counts = purge($first);
    is $counts->{audit_rows}, $before, 'the first purge removes what is older, and only that';
    is $db->value('SELECT COUNT(*) FROM streaming_sessions'), 1, 'one session is left';
    cmp_ok count(), '<=', $all, 'rows are gone';
    clean_ok(count(), 'after retention');
    is $db->value('SELECT base_seq FROM audit_chains WHERE chain = ?', $chain{d}), 4, 'the chain begins later';
    is_deeply [ $db->query('SELECT head_seq FROM audit_chains WHERE chain = ? AND base_seq = head_seq', $chain{a}) ], [ { head_seq => 12 } ], 'one is gone as a whole';

    tampered('the first row after retention deleted', sub { $db->do('DELETE FROM audit_log WHERE chain = ? AND seq = 5', $chain{d}) }, [],
        qr/^d 6 row 5 before it is missing/);
    tampered('the first row after retention rewritten with a right hash', sub {
        my $row = row('d', 5);
        $row->{prev_hash} = '0' x 64;
        $db->do('UPDATE audit_log SET prev_hash = ?, hash = ? WHERE chain = ? AND seq = 5', $row->{prev_hash}, row_hash($row), $chain{d});
    }, [], qr/^d 5 does not continue what retention has removed/);
    tampered('more removed than retention says', sub {
        $db->do('UPDATE audit_chains SET base_seq = 6, base_hash = ? WHERE chain = ?', row('d', 6)->{hash}, $chain{d});
        $db->do('DELETE FROM audit_log WHERE chain = ? AND seq <= 6', $chain{d});
    }, [], qr/^d 7 .*retention rows do not reach that far/);
    tampered('a base hash changed', sub { $db->do('UPDATE audit_chains SET base_hash = ? WHERE chain = ?', '1' x 64, $chain{d}) }, [], qr/^d 5 /);
    tampered('the base hash of a chain that is gone changed', sub {
        $db->do('UPDATE audit_chains SET base_hash = ?, head_hash = ? WHERE chain = ?', '1' x 64, '1' x 64, $chain{a});
    }, [], qr/^a 13 what retention removed before it does not have the hash/);
    tampered('the retention rows deleted', sub { $db->do("DELETE FROM audit_log WHERE event = 'retention'") }, [], qr/./, qr/^d 5 .*no retention row says so/);
    tampered('the entry of a chain that is gone removed', sub { $db->do('DELETE FROM audit_chains WHERE chain = ?', $chain{a}) }, [],
        qr/^a 0 was removed from audit_chains/);

    erase_alice('after retention', 2);
    clean_ok(count(), 'erased after retention');
    my $third = do { start_writer(); my $now = step('now'); stop_writer(); $now };
    $counts = purge($second);
    is $db->value('SELECT base_seq FROM audit_chains WHERE chain = ?', $chain{d}), 9, 'the second purge goes on where the first stopped';
    clean_ok(count(), 'after retention twice');
    purge($third);
    is $db->value('SELECT COUNT(*) FROM audit_log WHERE chain = ?', $chain{d}), 0, 'the third removes the chain, its erased row too';
    clean_ok(count(), 'after retention three times');
    is $db->value("SELECT COUNT(*) FROM audit_log WHERE event = 'erase'"), 0, 'erase rows go when what they explain is gone';
    purge($third + 1);
    clean_ok(count(), 'and again');
    return;
}

# Writes a chain anew so that it is whole, as one that was written that way: each row goes through `change`.
sub rewrite
{
    my ($chain, $change) = @_;
    my ($old, $new) = ('', '0' x 64);
    for my $row ($db->query('SELECT ' . join(',', @log) . ' FROM audit_log WHERE chain = ? ORDER BY seq', $chain)) {
        $old = $row->{hash};
        $row->{prev_hash} = $new;
        $change->($row);
        $new = row_hash($row);
        $db->do('UPDATE audit_log SET ts = ?, detail = ?, prev_hash = ?, hash = ? WHERE id = ?', @{$row}{qw(ts detail prev_hash)}, $new, $row->{id});
    }
    $db->do('UPDATE audit_chains SET head_hash = ? WHERE chain = ?', $new, $chain);
    return ($old, $new);
}

# A machine whose clock is a year ahead: its rows stay longer than the erase row that explains them would.
sub check_clocks
{
    start_writer();
    chain('e');
    step('fact e incident event=denied user_key=dora') for 1 .. 2;
    step('apply e');
    step('close e');
    my ($rc) = ctl('--state', $state, 'gdpr', 'erase', '--user', 'dora');
    is $rc, 0, 'erased';
    my ($erase) = $db->query("SELECT chain FROM audit_log WHERE event = 'erase'");
    my $now = step('now');
    stop_writer();
    my ($old, $new) = rewrite($chain{e}, sub { $_[0]{ts} =~ s/^(\d+)/$1 + 1/e });
    rewrite($erase->{chain}, sub { defined $_[0]{detail} and $_[0]{detail} =~ s/$old/$new/ });
    unlink "$state/$erase->{chain}.head" or die 'the head that is no longer so';
    clean_ok(undef, 'rows of next year');
    purge($now);
    is $db->value("SELECT COUNT(*) FROM audit_log WHERE event = 'erase'"), 1, 'the erase row stays as long as what it explains';
    is $db->value('SELECT COUNT(*) FROM audit_log WHERE chain = ?', $chain{e}), 2, 'and that is younger';
    clean_ok(undef, 'so what is left');
    return;
}

# Rows that wait in a journal are not missing, though another chain anchors them.
sub check_waiting
{
    start_writer();
    chain($_) for qw(w x);
    step("fact w incident event=auth_failed ip=192.0.2.$_") for 1 .. 3;
    step('fact x incident event=auth_ok user_key=bob');
    step('apply x');
    my (undef, @without) = verify();
    like "@without", qr/^w 0 was removed/, 'an anchored chain that is not there is missed';
    my (undef, @with) = verify('--state', $state);
    is_deeply \@with, [], 'but not while it waits in its journal';
    step('apply w');
    clean_ok(count(), 'applied');
    step("close $_") for qw(w x);
    stop_writer();
    return;
}

for my $kind (qw(sqlite3 pgsql mysql)) {
    subtest $kind => sub {
        $dir = File::Temp->newdir('chatstream-verify-XXXXXX', TMPDIR => 1);
        chmod 0755, $dir;
        $db = ChatStream::Database->new(kind => $kind, dir => "$dir", proxy => 0)->start;
        $state = "$dir/state";
        mkdir $state or die;
        chown +(getpwnam 'www-data')[ 2, 3 ], $state if $> == 0;
        %chain = ();
        my ($rc, undef, $complaint) = ctl('migrate');
        is $rc, 0, 'migrate' or die $complaint;
        start_writer();
        write_chains();
        stop_writer();
        check_written();
        check_columns();
        check_rows();
        check_chains();
        check_erase();
        check_retention();
        check_waiting();
        check_clocks();
        my ($uid) = (stat $state)[4];
        is_deeply [ grep { (stat)[4] != $uid } glob "$state/*" ], [], 'nothing in the state directory belongs to anybody but its owner';
        $db->stop;
        undef $db;
        done_testing;
    };
}
done_testing;
