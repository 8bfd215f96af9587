#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# chatstreamctl as somebody uses it from a shell: exit codes, what it prints, the flag file, the journals, and more rows than fit in a
# page. What the audit trail proves is in 61-audit-verify.t.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Database;
use File::Temp ();
use IPC::Open2 qw(open2);
use IPC::Open3 qw(open3);
use JSON::PP ();
use POSIX ();
use Symbol qw(gensym);
use Test::More;
use Time::HiRes qw(time);

my $build = $ENV{CHATSTREAM_BUILDDIR} || "$FindBin::Bin/../..";
my $ctl = $ENV{CHATSTREAM_CTL} || "$build/chatstreamctl";
my $writer = $ENV{CHATSTREAM_RECORD_WRITER} || "$build/t/unit/record_writer";
-x $_ or die "$_ is not there: build it\n" for $ctl, $writer;
delete $ENV{CHATSTREAM_DB};
local $SIG{ALRM} = sub { die "the test hangs\n" };
local $SIG{PIPE} = 'IGNORE';
alarm 300;

my $dir = File::Temp->newdir('chatstream-ctl-XXXXXX', TMPDIR => 1);
chmod 0755, $dir;
my @www = (getpwnam 'www-data')[ 2, 3 ];
my $db = ChatStream::Database->new(kind => 'sqlite3', dir => "$dir", proxy => 0)->start;
my $state = "$dir/state";
mkdir $state or die;
chown @www, $state if $> == 0;
my @db = ('--db', $db->ctl);
my @state = ('--state', $state);

sub run
{
    my ($from, $err) = (undef, gensym);
    my $child = open3(my $to, $from, $err, 'timeout', 60, $ctl, @_);
    close $to;
    my $said = do { local $/; <$from> } // '';
    my $complaint = do { local $/; <$err> } // '';
    waitpid $child, 0;
    return ($? >> 8, $said, $complaint);
}

sub exits
{
    my ($code, $words, @command) = @_;
    my ($rc, $said, $complaint) = run(@command);
    my $what = join ' ', 'chatstreamctl', map { length > 40 ? substr($_, 0, 40) . '...' : $_ } @command;
    is $rc, $code, "$what: exit $code" or diag $said, $complaint;
    if ($code) {
        like $complaint, qr/^chatstreamctl: .*\n\z/, 'with one line on stderr';
        like $complaint, $words, 'that says why';
    }
    else {
        is $complaint, '', 'nothing on stderr';
        like $said, $words, 'the right answer';
    }
    return $said;
}

sub write_facts
{
    my (@lines) = @_;
    my @as = $> == 0 ? (qw(setpriv --reuid www-data --regid www-data --clear-groups --)) : ();
    my $pid = open2(my $out, my $in, 'timeout', 100, @as, $writer, $state, split /:/, $db->ctl, 2);
    scalar <$out>;
    my @answers;
    for my $line (@lines) {
        print $in "$line\n";
        $in->flush;
        my $answer = <$out> // 'error gone';
        $answer =~ /^ok ?(.*)/ or die "$line: $answer";
        push @answers, $1;
    }
    close $in;
    waitpid $pid, 0;
    return @answers;
}

sub slurp { my ($file) = @_; open my $handle, '<', $file or return undef; local $/; return <$handle> }
sub json { return JSON::PP::decode_json($_[0]) }

subtest 'wrong use' => sub {
    exits(2, qr/no command/);
    exits(2, qr/--nonsense/, '--nonsense');
    exits(2, qr/--nonsense/, 'status', '--nonsense');
    exits(2, qr/-x/, 'status', '-x');
    exits(2, qr/frobnicate: no such command/, 'frobnicate');
    exits(2, qr/audit frobnicate: no such command/, 'audit', 'frobnicate');
    exits(2, qr/audit/, 'audit');
    exits(2, qr/--db needs a value/, 'status', '--db');
    exits(2, qr/status needs --db/, 'status');
    exits(2, qr/DRIVER:PARAMS/, 'status', '--db', 'nothing');
    exits(2, qr/sqlite3, pgsql, mysql/, 'status', '--db', 'oracle:x');
    exits(2, qr/too many: now/, 'migrate', @db, 'now');
    exits(2, qr/takes no --user/, 'status', @db, '--user', 'x');
    exits(2, qr/needs --state: an audit row needs a chain/, 'gdpr', 'erase', @db, '--user', 'x');
    exits(2, qr/needs --state/, 'purge', @db, '--days', 3);
    exits(2, qr/--days or --before/, 'purge', @db, @state);
    exits(2, qr/needs --user/, 'gdpr', 'export', @db);
    exits(2, qr/--user needs a value/, 'gdpr', 'export', @db, '--user', '');
    exits(2, qr/--days/, 'purge', @db, @state, '--days', $_) for 'x', '-1', '3x', '';
    exits(2, qr/--from/, 'audit', 'export', @db, '--from', $_) for 'yesterday', '2026-02-30', '2026-02-17T25:00:00Z', '2026-02-17x', '2026-02-17T10:00:00.Z';
    exits(2, qr/needs --file/, 'flags', 'get');
    exits(2, qr/nothing to set/, 'flags', 'set', '--file', "$dir/f.json", 'profile=a');
    ok !-e "$dir/f.json", 'and no file is made';
};

subtest 'help and version' => sub {
    my $help = exits(0, qr/usage: chatstreamctl/, '--help');
    my @commands = $help =~ /^  ((?:flags|journal|audit|gdpr) \w+|migrate|status|purge)\b/mg;
    is_deeply \@commands, [ 'migrate', 'status', 'flags get', 'flags set', 'journal show', 'journal replay', 'audit verify', 'audit export', 'gdpr export', 'gdpr erase', 'purge' ],
        'every command is in it';
    exits(0, qr/usage: chatstreamctl $_/, split(/ /, $_), '--help') for @commands;
    exits(0, qr/^chatstreamctl \S+\n\z/, '--version');
    my $page = slurp("$FindBin::Bin/../../tools/chatstreamctl/chatstreamctl.8") // '';
    like $page =~ s/\\-/-/gr, qr/^\.B[RI]* "?\Q$_\E/m, "the man page has $_" for @commands;
    my %options = map { $_ => 1 } $help =~ /(--[a-z-]+)/g;
    like $page =~ s/\\-/-/gr, qr/\Q$_\E/, "the man page has $_" for sort keys %options;
};

subtest 'a database that is not as it should be' => sub {
    exits(1, qr/No such file/, 'status', '--db', "sqlite3:$dir/none.sqlite");
    ok !-e "$dir/none.sqlite", 'looking at a database does not make one';
    exits(1, qr/cannot open the database/, 'status', '--db', 'pgsql:host=127.0.0.1 port=1 dbname=x');
    exits(1, qr/cannot open the database/, 'audit', 'verify', '--db', 'mysql:host=127.0.0.1,port=1,dbname=x');
    exits(1, qr/no schema yet/, $_, @db) for 'status';
    exits(0, qr/^schema version \d+\n\z/, 'migrate', @db);
    exits(0, qr/^\{"schema":\d+\}\n\z/, '--json', 'migrate', @db);
    local $ENV{CHATSTREAM_DB} = $db->ctl;
    exits(0, qr/schema version/, 'status');
};

subtest 'status, journals, export' => sub {
    write_facts(
        'chain a', 'fact a open event=stream_open stream_id=s1 user_key=ann message=planted-question profile=p',
        'fact a close event=stream_close stream_id=s1 status=completed answer=planted-answer', 'apply a',
        'fact a open event=stream_open stream_id=s2 user_key=ben message=planted-later',
        'fact a incident event=rate_limited user_key=ben ip=192.0.2.1',
    );
    my $status = json(exits(0, qr/./, '--json', 'status', @db, @state));
    is_deeply $status->{sessions}, { completed => { total => 1, last_hour => 1 } }, 'sessions by status';
    is_deeply $status->{audit}, { rows => 2, chains => 1 }, 'audit rows and chains';
    cmp_ok $status->{journal}{bytes}, '>', 0, 'bytes wait in the journal of a writer that died';
    $db->do("UPDATE streaming_sessions SET created_at = '2020-01-01 00:00:00.000'");
    is json((run('--json', 'status', @db))[1])->{sessions}{completed}{last_hour}, 0, 'an old session is not of the last hour';
    exits(0, qr/^  completed +1 +0$/m, 'status', @db);

    my $shown = exits(0, qr/kind=.open/, 'journal', 'show', @state);
    is scalar(() = $shown =~ /^chain=/mg), scalar(split /\n/, $shown), 'one line for each fact';
    unlike $shown, qr/planted/, 'without what anybody wrote';
    like $shown, qr/message_bytes=13/, 'but its length';
    like exits(0, qr/./, 'journal', 'show', @state, '--with-text'), qr/message="planted-later"/, 'with it, when asked';
    my @facts = map { json($_) } split /\n/, exits(0, qr/./, '--json', 'journal', 'show', @state);
    is_deeply [ grep { exists $_->{message} || exists $_->{answer} } @facts ], [], 'nor in JSON';
    is_deeply [ map { $_->{event} } grep { !$_->{applied} } @facts ], [qw(stream_open rate_limited)], 'and what waits';

    exits(0, qr/^1 chains adopted, 2 facts applied$/, 'journal', 'replay', @db, @state);
    exits(0, qr/^0 chains adopted, 0 facts applied$/, 'journal', 'replay', @db, @state);
    is $db->value('SELECT COUNT(*) FROM audit_log'), 4, 'they are in the database';
    is_deeply [ glob "$state/*.journal" ], [], 'and no journal is left';
    exits(0, qr/4 rows in 1 chains/, 'audit', 'verify', @db, @state);
    exits(1, qr/./, 'journal', 'show', '--state', "$dir/nowhere");
    exits(1, qr/./, 'journal', 'replay', @db, '--state', "$dir/nowhere");

    my $export = sub { return map { json($_) } split /\n/, (run('audit', 'export', @db, @_))[1] };
    is_deeply [ map { $_->{seq} } $export->() ], [ 1 .. 4 ], 'audit export: all';
    is_deeply [ map { $_->{seq} } $export->('--user', 'ben') ], [ 3, 4 ], 'by user';
    is_deeply [ map { $_->{seq} } $export->('--stream', 's1') ], [ 1, 2 ], 'by stream';
    is_deeply [ map { $_->{seq} } $export->('--stream', 's1', '--user', 'ben') ], [], 'by both';
    is_deeply [ map { $_->{seq} } $export->('--event', 'stream_open') ], [ 1, 3 ], 'by event';
    my ($second, $third) = map { $_->{ts} } ($export->())[ 1, 2 ];
    is_deeply [ map { $_->{seq} } $export->('--from', $second, '--until', $third) ], [2], 'from, and until without it';
    is_deeply [ map { $_->{seq} } $export->('--until', '2020-01-01') ], [], 'an empty time';
};

subtest 'flags' => sub {
    my $file = "$dir/flags.json";
    my @file = ('--file', $file);
    exits(0, qr/^\z/, 'flags', 'get', @file);
    exits(0, qr/^\{\s*\}\n\z/, '--json', 'flags', 'get', @file);
    exits(0, qr/^\z/, 'flags', 'set', @file, 'enabled=on', 'rollout=25');
    is_deeply json(slurp($file)), { enabled => JSON::PP::true, rollout => 25 }, 'set';
    is sprintf('%o', (stat $file)[2] & 07777), '644', 'a new file may be read by the server';
    run('flags', 'set', @file, 'profile=on-boarding', 'rollout=12.1');
    is_deeply json(slurp($file)), { enabled => JSON::PP::true, rollout => 25, profiles => { 'on-boarding' => { rollout => 12.1 } } }, 'a profile';
    like slurp($file), qr/12\.1\b/, 'with the digits as they were given';
    exits(0, qr/^enabled=on\nrollout=25\nprofile=on-boarding rollout=12\.1\n\z/, 'flags', 'get', @file);
    chmod 0640, $file;
    chown @www, $file if $> == 0;
    my $inode = (stat $file)[1];
    run('flags', 'set', @file, 'enabled=', 'profile=a', 'profile=b', 'rollout=0');
    is_deeply json(slurp($file))->{profiles}, { 'on-boarding' => { rollout => 12.1 }, a => { rollout => 0 }, b => { rollout => 0 } }, 'two profiles at once';
    is_deeply [ (stat $file)[ 4, 5 ], (stat _)[2] & 07777 ], [ $> == 0 ? @www : ($>, $) + 0), 0640 ], 'owner and mode are kept';
    isnt +(stat $file)[1], $inode, 'it is another file, put in the place of the old one';
    run('flags', 'set', @file, $_, 'rollout=', 'enabled=') for qw(profile=a profile=b profile=on-boarding);
    is_deeply json(slurp($file)), { enabled => JSON::PP::true, rollout => 25 }, 'an empty value removes, and an empty profile goes';

    my $before = slurp($file);
    exits(2, qr/rollout=/, 'flags', 'set', @file, "rollout=$_") for '101', '-1', '1.234', 'x', '1e1', '0x10', '007', '5.';
    exits(2, qr/enabled=/, 'flags', 'set', @file, 'enabled=maybe');
    exits(2, qr/colour=/, 'flags', 'set', @file, 'colour=red');
    exits(1, qr/profile/, 'flags', 'set', @file, 'profile=' . 'x' x 3000, 'rollout=1');
    is slurp($file), $before, 'what is refused changes nothing';
    is_deeply [ map { s{.*/}{}r } glob "$file*" ], ['flags.json'], 'and leaves nothing behind';
    for my $broken ('{"rollout": 25', '{"rolout": 25}', '[]', '') {
        open my $handle, '>', $file or die;
        print $handle $broken;
        close $handle;
        exits(1, qr/flags\.json/, 'flags', 'set', @file, 'enabled=off');
        is slurp($file), $broken, 'a file that is broken is not written over';
    }
    unlink $file;
    exits(1, qr/No such file/, 'flags', 'set', '--file', "$dir/nowhere/flags.json", 'enabled=off');

    my $rows = $db->value("SELECT COUNT(*) FROM audit_log WHERE event = 'flag_change'");
    exits(0, qr/^\z/, 'flags', 'set', @file, @db, @state, 'rollout=5');
    my ($row) = $db->query("SELECT * FROM audit_log WHERE event = 'flag_change' ORDER BY id DESC");
    is $db->value("SELECT COUNT(*) FROM audit_log WHERE event = 'flag_change'"), $rows + 1, 'an audit row tells of it';
    is_deeply json($row->{detail})->{flags}, { rollout => 5 }, 'and of what is in force';
    exits(0, qr/rows/, 'audit', 'verify', @db, @state);
    exits(1, qr/./, 'flags', 'set', @file, '--state', "$dir/nowhere", 'rollout=6');
    is_deeply json(slurp($file)), { rollout => 5 }, 'no change that cannot be told of';
};

subtest 'flags, many at once' => sub {
    my $file = "$dir/busy.json";
    run('flags', 'set', '--file', $file, 'rollout=0');
    my @children;
    for my $writer (1 .. 4) {
        my $pid = fork // die;
        if (!$pid) {
            for my $n (1 .. 15) { system($ctl, 'flags', 'set', '--file', $file, "profile=p$writer-$n", "rollout=$writer") == 0 or POSIX::_exit(1) }
            POSIX::_exit(0);
        }
        push @children, $pid;
    }
    my ($reads, $bad, $failed) = (0, 0, 0);
    while (@children) {
        @children = grep { my $got = waitpid $_, 1; $failed++ if $got == $_ && $?; $got != $_ } @children;
        my $text = slurp($file);
        $reads++;
        $bad++ if !defined $text || !eval { json($text)->{rollout} == 0 };
    }
    is $failed, 0, 'four writers at once, and none is refused';
    cmp_ok $reads, '>', 100, "$reads reads";
    is $bad, 0, 'none of them saw half a file, or none';
    is scalar(keys %{ json(slurp($file))->{profiles} }), 60, 'no change of one writer was lost by another';
    run('flags', 'set', '--file', $file, map({"profile=q$_"} 1 .. 4), 'rollout=1');
    exits(1, qr/more than 64 profiles/, 'flags', 'set', '--file', $file, 'profile=one-more', 'rollout=1');
};

subtest 'more than a page' => sub {
    my @lines = ('chain big');
    for my $n (1 .. 700) {
        push @lines, "fact big open event=stream_open stream_id=big$n user_key=cora message=hers", "fact big close event=stream_close stream_id=big$n status=completed";
    }
    push @lines, 'fact big open event=stream_open stream_id=late user_key=cora message=hers-too';
    write_facts(@lines, 'apply big', 'close big');
    my $all = $db->value('SELECT COUNT(*) FROM audit_log');
    is json((run('--json', 'audit', 'verify', @db, @state))[1])->{rows}, $all, "verify: all $all rows";
    is scalar(split /\n/, (run('audit', 'export', @db))[1]), $all, 'audit export: all';
    my $document = json((run('gdpr', 'export', @db, '--user', 'cora'))[1]);
    is_deeply [ map { scalar @{ $document->{$_} } } qw(sessions messages audit) ], [ 701, 701, 1401 ], 'gdpr export: all';
    my $counts = json(exits(0, qr/./, '--json', 'gdpr', 'erase', @db, @state, '--user', 'cora'));
    is_deeply $counts, { sessions => 701, messages => 701, audit_rows => 1401, active => 1 }, 'gdpr erase: all, and the active one is told';
    my @named = map { json($_->{detail})->{rows} } $db->query("SELECT detail FROM audit_log WHERE event = 'erase'");
    cmp_ok scalar(grep { %$_ } @named), '>=', 3, 'in several rows';
    my ($result) = json((run('--json', 'audit', 'verify', @db, @state))[1]);
    is_deeply [ $result->{findings}, $result->{erased} ], [ [], 1401 ], 'still verifies';
    is_deeply json((run('gdpr', 'export', @db, '--user', 'cora'))[1]), { user => 'cora', sessions => [], messages => [], audit => [] }, 'nothing is hers';
    exits(0, qr/sessions and \d+ audit rows removed/, 'purge', @db, @state, '--days', 1);
    is $db->value('SELECT COUNT(*) FROM audit_log WHERE salt IS NULL'), 1401, 'nothing is a day old';
    $counts = json(exits(0, qr/./, '--json', 'purge', @db, @state, '--days', 0));
    cmp_ok $counts->{audit_rows}, '>=', 1401, 'purge: all of them';
    is $db->value("SELECT COUNT(*) FROM streaming_sessions WHERE status <> 'active'"), 0, 'and the sessions that ended';
    is $db->value("SELECT COUNT(*) FROM streaming_sessions"), 2, 'active ones stay';
    exits(0, qr/trail is what was written/, 'audit', 'verify', @db, @state);
};

subtest 'root leaves nothing behind that the server cannot use' => sub {
    plan skip_all => 'not root' if $> != 0;
    is_deeply [ grep { (stat)[4] != $www[0] } glob "$state/*" ], [], 'in the state directory';
    is_deeply [ grep { (stat)[4] != $www[0] } glob($db->params . '*') ], [], 'beside the database';
    mkdir "$dir/new";
    chown @www, "$dir/new";
    exits(0, qr/schema/, 'migrate', '--db', "sqlite3:$dir/new/cs.sqlite");
    is_deeply [ grep { (stat)[4] != $www[0] } glob("$dir/new/*") ], [], 'a new database';
};

$db->stop;
done_testing;
