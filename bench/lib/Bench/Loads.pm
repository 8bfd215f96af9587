# SPDX-License-Identifier: Apache-2.0
package Bench::Loads;

# The four loads of DESIGN section 10, two more for what the gate and the records cost, and one measurement: a fresh
# server, warmed up, one load, ended again.

use strict;
use warnings;
use utf8;
use Exporter 'import';
use HTTP::Tiny ();
use POSIX qw(ceil);
use Bench::Proc qw(start stop run_json open_json family pss free_port ready slurp);
use Time::HiRes qw(sleep time);
use Bench::Records qw(cpu_of database_cpu saved wait_saved finished_rows);
use Bench::Servers qw(command paths headers is_chatstream variant);

our @EXPORT_OK = qw(plans takes_part measure put_idle_script);

use constant WARM => 'tokens=20&size=32&burst=1&stamp=1';

sub steady_plan {
    my ($env, $label, $streams, $rate, $seconds, %more) = @_;
    my $ramp = $streams / 1500 > 1 ? $streams / 1500 : 1;
    my $settle = 0.5;
    # A second to spare: streams must not end inside the measured window because opening them took longer than planned.
    my $tokens = ceil($rate * ($ramp + $settle + $seconds + 1));
    return {
        kind => 'steady', label => $label, streams => $streams, rate => $rate, tokens => $tokens,
        query => "tokens=$tokens&size=32&rate=$rate&stamp=1", total => $streams,
        args => ['--streams', $streams, '--ramp', $ramp, '--settle', $settle, '--seconds', $seconds,
            '--rate-of-upstream', $rate, '--expect', $tokens],
        timeout => 90 + $ramp + 2 * ($tokens / $rate), %more,
    };
}

sub burst_plan {
    my ($env, $connections, @args) = @_;
    my ($clients, $count) = $env->{tiny} ? (20, 10) : (100, 50);
    return {
        kind => 'burst', label => "$clients clients × $count streams of 20 events, $connections",
        short => @args ? 'burst, new connections' : 'burst, kept connections',
        streams => $clients, tokens => 20, query => WARM, total => $clients * $count, size => @args ? 'new' : 'kept',
        args => ['--clients', $clients, '--count', $count, '--ramp', 0, '--settle', 0.5, '--expect', 20, @args],
        timeout => 120,
    };
}

# Paced streams that begin and end all the time: what opening and closing does to the delay of the others.
sub churn_plan {
    my ($env) = @_;
    my ($clients, $count, $rate, $tokens) = $env->{tiny} ? (50, 2, 20, 20) : (500, 4, 50, 75);
    return {
        kind => 'burst', churn => 1, short => "churn, $tokens events",
        label => "$clients clients × $count streams of $tokens events at $rate/s", streams => $clients, tokens => $tokens, query => "tokens=$tokens&size=32&rate=$rate&stamp=1", total => $clients * $count,
        args => ['--clients', $clients, '--count', $count, '--ramp', $tokens / $rate, '--settle', 0.5, '--expect', $tokens],
        timeout => 120,
    };
}

# As fast as the machine goes, then at paces between which the journal stops to keep up.
sub sustained_plan {
    my ($env) = @_;
    my $count = $env->{tiny} ? 20 : 200;
    return {
        kind => 'sustained', rounds => 1, label => 'streams of 20 events, for as long as the journal does not grow',
        streams => 1000, tokens => 20, query => WARM, total => 16_000, keep => 2, timeout => 120, seconds => $env->{tiny} ? 2 : 4,
        args => ['--clients', 100, '--count', $count, '--ramp', 0, '--settle', 0, '--expect', 20],
    };
}

# A token every ten seconds, for longer than the measurement takes; it is taken when every stream has had two.
sub put_idle_script {
    my ($port) = @_;
    my $script = "token the first token\nrepeat 90\nsleep 10000\ntoken one more token\nend\ndone\n";
    my $r = HTTP::Tiny->new(timeout => 5)->put("http://127.0.0.1:$port/_script/idle", { content => $script });
    die "the simulator refused the script: $r->{content}\n" if !$r->{success};
}

sub idle_plan {
    my ($env) = @_;
    my $streams = $env->{tiny} ? 300 : 6000;
    return {
        kind => 'idle', rounds => 1, label => "$streams idle streams", streams => $streams, query => 'script=idle',
        total => $streams, timeout => 120,
        args => ['--idle', $streams, '--ramp', $streams / 1500, '--settle', $env->{tiny} ? 1 : 10],
    };
}

sub growth_plans {
    my ($env) = @_;
    my @sizes = $env->{tiny} ? (20, 100) : (100, 1000, 6000);
    my $seconds = $env->{growth_seconds};
    my @plans = map { steady_plan($env, "$_ streams × 2 events/s", $_, 2, $seconds, size => $_) } @sizes;
    my $big = $env->{tiny} ? 200 : 10_000;
    push @plans, steady_plan($env, "$big streams × 2 events/s, 4 children", $big, 2, $seconds, size => $big,
        children => 4, only => 'chatstream');
    return @plans;
}

# load name => its plans
sub plans {
    my ($env) = @_;
    my ($streams, $rate) = $env->{tiny} ? (50, 20) : (500, 50);
    my %plans = (
        load1 => [steady_plan($env, "$streams streams × $rate events/s", $streams, $rate, $env->{seconds}, short => 'paced')],
        load2 => [burst_plan($env, 'each on a new connection', '--fresh'),
            burst_plan($env, 'connections kept where the server keeps them')],
        load3 => [idle_plan($env)],
        load4 => [growth_plans($env)],
        load5 => [churn_plan($env)],
        load6 => [sustained_plan($env)],
    );
    for my $plan (map { @$_ } values %plans) {
        $plan->{warm}  = WARM;
        $plan->{slots} = int($plan->{total} * 1.25) + 1000;
        # What ended stays readable for a while: room for everything that runs and ran.
        $plan->{arena} = ceil($plan->{total} * (16384 + 200 * ($plan->{tokens} // 20)) / 1_048_576) + 64 . 'm';
    }
    return \%plans;
}

# Who is measured with which plan: the gate and the records where they cost something, everybody else in loads 1 to 4.
# A plan with rounds is measured in so many only, for the time it takes; its figures hardly vary, or say themselves how
# much they do.
sub takes_part {
    my ($plan, $name) = @_;
    my $variant = variant($name);
    return $name eq $plan->{only} if $plan->{only};
    return $variant->{records} && !$variant->{frozen} if $plan->{kind} eq 'sustained';
    return is_chatstream($name) if $plan->{churn};
    return 0 if $variant->{frozen} && ($plan->{size} // '') eq 'new';
    return !%$variant || $plan->{kind} eq 'burst' || ($plan->{kind} eq 'steady' && !$plan->{size});
}

sub tail {
    my ($file) = @_;
    my @lines = split /\n/, slurp($file) // '';
    return join '', map { "    $_\n" } @lines > 8 ? @lines[-8 .. -1] : @lines;
}

# Starts the server and sends it enough short streams that pools, keep-alive connections and lazy memory are there.
sub start_warm {
    my ($env, $name, $dir, $plan) = @_;
    my $port = free_port();
    my ($path, $warm) = paths($name, $plan);
    my @to = ($env->{load}, '--to', "127.0.0.1:$port", '--path', $warm, headers($env, $name));
    my $pid = start($name, "$dir/out.log", command($env, $name, $dir, $port, $env->{sim_port}, $plan));
    my $up = ready($pid, 20, sub {
        my $r = run_json("$dir/load.log", 10, @to, '--clients', 1, '--count', 1, '--settle', 0, '--ramp', 0,
            '--timeout', 5);
        return $r->{completed};
    });
    die "$name does not serve:\n" . tail("$dir/error.log") . tail("$dir/out.log") if !$up;
    my $r = run_json("$dir/load.log", 40, @to, '--clients', 16, '--count', 16, '--expect', 20, '--ramp', 0.1,
        '--settle', 0.3, '--timeout', 30);
    die "$name failed in the warm-up: $r->{first_failure}\n" if $r->{completed} != 256;
    return ($pid, $port, $path);
}

sub figures {
    my ($plan, $r) = @_;
    my ($cpu, $seconds) = ($r->{cpu_ns}, $r->{seconds});
    my %f = (
        failed => $r->{failed} + $r->{unfinished}, first_failure => $r->{first_failure},
        p50 => $r->{delay_us}{p50}, p99 => $r->{delay_us}{p99}, raw => $r,
    );
    # The machine's own figure comes in ticks of 10 ms: of no use for a short window.
    my $ours = $cpu->{server} + $cpu->{upstream} + $cpu->{client};
    $f{others} = ($cpu->{machine} - $ours) / $seconds / 1e9 if $seconds > 1;
    $f{cores} = $cpu->{server} / 1e9 / $seconds if $seconds;
    if ($plan->{kind} eq 'steady' && $r->{tokens}) {
        $f{us_event} = $cpu->{server} / 1000 / $r->{tokens};
        $f{held}     = 100 * $r->{rate_held};
        $f{events}   = $r->{events} / $r->{tokens};
    }
    if ($plan->{kind} eq 'burst' && $r->{completed}) {
        $f{us_stream} = $cpu->{server} / 1000 / $r->{completed};
        $f{us_event}  = $cpu->{server} / 1000 / $r->{tokens};
        $f{per_s}     = $r->{completed} / $seconds;
    }
    return \%f;
}

sub measure_idle {
    my ($plan, $log, $pids, @cmd) = @_;
    my $before = pss(@$pids);
    my $client = open_json($log, $plan->{timeout} + 60, @cmd);
    my $hold = $client->next;
    my $after = pss(@$pids);
    my $open = $hold->{open_now};
    close $client->{in};
    my $end = $client->next;
    $client->finish;
    # Here a stream that is not open at the first look is one that failed.
    my $f = figures($plan, { %$end, unfinished => $plan->{streams} - $open - $hold->{failed} });
    $f->{open} = $open;
    $f->{base_mib} = $before->{pss} / 1024;
    $f->{kib_stream}   = ($after->{pss} - $before->{pss}) / $open     if $open;
    $f->{shmem_stream} = ($after->{shmem} - $before->{shmem}) / $open if $open;
    return $f;
}

# ---- records: what there is to do around the load ----

use constant FACTS => 2;          # of a stream: it opened, it closed
use constant RECORD_WAIT => 60;   # seconds, for all of them to arrive

sub cpu_since {
    my ($before, $now) = @_;
    my $sum = 0;
    $sum += $now->{$_} - ($before->{$_} // 0) for keys %$now;
    return $sum;
}

# Everything of the warm-up is in the database, the clocks are read, and it is frozen where that is asked for.
sub records_before {
    my ($dir, $port, $pids, $variant) = @_;
    my %b = (variant => $variant, dir => $dir, port => $port, pids => $pids);
    wait_saved($port, FACTS * 257, 20) // die "the records of the warm-up do not arrive\n";
    sleep 0.2;
    @b{qw(facts rows)} = (saved($port), finished_rows($variant->{records}, $dir));
    @b{qw(httpd database)} = (cpu_of(@$pids), database_cpu());
    Bench::Records::freeze() if $variant->{frozen};
    return \%b;
}

# All CPU up to the last record belongs to the streams. A frozen database takes none: then it is all up to the journal.
sub records_after {
    my ($b, $f, $streams) = @_;
    my $began = time;
    if ($b->{variant}{frozen}) {
        sleep 1.5;
        $f->{cpu_httpd} = cpu_since($b->{httpd}, cpu_of(@{ $b->{pids} }));
        Bench::Records::thaw();
    }
    $f->{drain} = wait_saved($b->{port}, $b->{facts} + FACTS * $streams, RECORD_WAIT);
    $f->{cpu_httpd} //= cpu_since($b->{httpd}, cpu_of(@{ $b->{pids} }));
    $f->{cpu_database} = cpu_since($b->{database}, database_cpu()) if $b->{variant}{records} eq 'pgsql';
    # The load client took it for somebody else's.
    $f->{others} -= $f->{cpu_database} / 1e9 / $f->{raw}{seconds}
        if defined $f->{others} && $f->{cpu_database} && !$b->{variant}{frozen};
    $f->{missing} = $streams - (finished_rows($b->{variant}{records}, $b->{dir}) - $b->{rows});
    if ($f->{missing}) {
        $f->{first_failure} ||= "$f->{missing} sessions are not in the database";
        $f->{failed} += abs $f->{missing};
    }
    return;
}

# The load client looks at its window only; the store thread goes on after it.
sub whole_cost {
    my ($plan, $f) = @_;
    my $r = $f->{raw};
    return if $plan->{kind} ne 'burst' || !$r->{completed};
    $f->{us_stream} = $f->{cpu_httpd} / 1000 / $r->{completed};
    $f->{us_event}  = $f->{cpu_httpd} / 1000 / $r->{tokens};
    $f->{db_stream} = $f->{cpu_database} / 1000 / $r->{completed} if defined $f->{cpu_database};
    return;
}

# One load at a pace (streams/s; undef: as fast as it goes); what was offered, how long the records took after its end.
sub one_pace {
    my ($plan, $b, $log, $pace, @cmd) = @_;
    my @args = @{ $plan->{args} };
    if ($pace) {
        my $all = int($pace * $plan->{seconds});
        my $each = ceil($all / 15_000);
        @args = ('--clients', int($all / $each), '--count', $each, '--ramp', $plan->{seconds}, '--settle', 0, '--expect', 20);
    }
    my $facts = saved($b->{port});
    my $r = run_json($log, $plan->{timeout} + 60, @cmd, @args);
    die "$r->{failed} streams failed: $r->{first_failure}\n" if $r->{failed} || $r->{unfinished};
    $b->{streams} += $r->{completed};
    my $behind = $facts + FACTS * $r->{completed} - saved($b->{port});
    my $drain = wait_saved($b->{port}, $facts + FACTS * $r->{completed}, RECORD_WAIT) // die "records do not arrive\n";
    return { per_s => $r->{completed} / $r->{seconds}, seconds => $r->{seconds}, behind => $behind / FACTS, drain => $drain,
        raw => $r };
}

# A pace is held when the database has everything within half a second of the end: it was not falling behind before.
sub measure_sustained {
    my ($plan, $b, $log, @cmd) = @_;
    my $full = one_pace($plan, $b, $log, undef, @cmd);
    my %f = (failed => 0, full_per_s => $full->{per_s}, full_behind => $full->{behind}, full_drain => $full->{drain},
        raw => [$full]);
    my ($held, $lost, $pace) = (undef, undef, 0.9 * $full->{raw}{completed} / ($full->{seconds} + $full->{drain}));
    for my $try (1 .. 5) {
        my $p = one_pace($plan, $b, $log, $pace, @cmd);
        push @{ $f{raw} }, { %$p, pace => $pace };
        $p->{drain} <= 0.5 && $p->{per_s} > 0.9 * $pace ? $held = $pace : $lost = $pace;
        last if $held && $lost && $lost / $held < 1.1;
        $pace = $held && $lost ? ($held + $lost) / 2 : $held ? $pace * 1.2 : $pace * 0.8;
    }
    @f{qw(held_per_s lost_per_s)} = ($held, $lost);
    return \%f;
}

# ---- one measurement ----

sub measure_once {
    my ($env, $name, $plan) = @_;
    my $dir = "$env->{tmp}/" . ++$env->{serial} . "-$name";
    mkdir $dir or die "$dir: $!\n";
    chmod 0755, $dir;
    my $variant = variant($name);
    my ($pid, $port, $path) = start_warm($env, $name, $dir, $plan);
    my @pids = family($pid);
    my @cmd = ($env->{load}, '--to', "127.0.0.1:$port", '--path', $path, headers($env, $name), '--sources', 16,
        '--timeout', $plan->{timeout}, '--cpu-of', join(',', @pids), '--upstream-cpu-of', $env->{sim_pid});
    push @cmd, '--end-marker', is_chatstream($name) ? '"type":"complete"' : '"type":"done"'
        if $plan->{kind} ne 'idle';
    my $records = $variant->{records} && records_before($dir, $port, \@pids, $variant);
    my $f = $plan->{kind} eq 'idle' ? measure_idle($plan, "$dir/load.log", \@pids, @cmd, @{ $plan->{args} })
        : $plan->{kind} eq 'sustained' ? measure_sustained($plan, $records, "$dir/load.log", @cmd)
        : figures($plan, run_json("$dir/load.log", $plan->{timeout} + 60, @cmd, @{ $plan->{args} }));
    if ($records) {
        records_after($records, $f, $records->{streams} // $f->{raw}{completed});
        whole_cost($plan, $f);
    }
    my @now = family($pid);
    $f->{processes_changed} = "@pids" eq "@now" ? 0 : 1;
    $f->{clean_stop} = stop($pid) ? 1 : 0;
    $f->{error_log} = tail("$dir/error.log") if $f->{failed};
    return $f;
}

# A burst is over in a fraction of a second and varies accordingly: of three the middle one, with the failures of all.
sub measure {
    my ($env, $name, $plan) = @_;
    return measure_once($env, $name, $plan) if $plan->{kind} ne 'burst' || $plan->{churn};
    my @all = sort { ($a->{us_stream} // 1e9) <=> ($b->{us_stream} // 1e9) }
        map { measure_once($env, $name, $plan) } 1 .. $env->{bursts};
    my ($bad) = grep { $_->{failed} } @all;
    my $failed = 0;
    $failed += $_->{failed} for @all;
    my $f = $all[$#all / 2];
    @$f{qw(failed first_failure error_log)} = ($failed, $bad->{first_failure}, $bad->{error_log}) if $bad;
    return $f;
}

1;
