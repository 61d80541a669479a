// Prints tests/data/java_assignors.txt: what the assignors of kafka-clients give to random groups.
// java -cp kafka-clients-4.3.1.jar:slf4j-api.jar JavaAssignors.java
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.*;
import java.util.*;
public class JavaAssignors {
  static Cluster cluster(Map<String,Integer> t){
    Node n=new Node(0,"h",1); List<PartitionInfo> ps=new ArrayList<>();
    for (var e: t.entrySet()) for(int i=0;i<e.getValue();i++) ps.add(new PartitionInfo(e.getKey(),i,n,new Node[]{n},new Node[]{n}));
    return new Cluster("c",List.of(n),ps,Set.of(),Set.of());
  }
  public static void main(String[] a){
    Random r=new Random(7);
    for(String kind: List.of("range","roundrobin")) for(int c=0;c<12;c++){
      int nt=1+r.nextInt(3), nm=1+r.nextInt(5);
      TreeMap<String,Integer> topics=new TreeMap<>();
      for(int i=0;i<nt;i++) topics.put("t"+i, r.nextInt(8));
      Map<String,Subscription> subs=new HashMap<>();
      TreeMap<String,String> desc=new TreeMap<>();
      for(int i=0;i<nm;i++){
        List<String> ts=new ArrayList<>();
        for(String t: topics.keySet()) if(r.nextInt(4)>0) ts.add(t);
        Subscription s=new Subscription(ts);
        String inst=r.nextInt(3)==0? "i"+(9-i):"";
        if(!inst.isEmpty()) s.setGroupInstanceId(Optional.of(inst));
        String id="m"+((i*7)%5)+"-"+i; subs.put(id,s); desc.put(id,inst+":"+String.join(",",ts));
      }
      ConsumerPartitionAssignor as= kind.equals("range")? new RangeAssignor(): new RoundRobinAssignor();
      var g=as.assign(cluster(topics), new GroupSubscription(subs)).groupAssignment();
      StringBuilder b=new StringBuilder(kind);
      b.append(" "); b.append(String.join(",", topics.entrySet().stream().map(e->e.getKey()+"="+e.getValue()).toList()));
      for(var e: desc.entrySet()){
        List<String> l=new ArrayList<>(); for(var tp: g.get(e.getKey()).partitions()) l.add(tp.topic()+"."+tp.partition()); Collections.sort(l);
        b.append(" "+e.getKey()+"/"+e.getValue()+"/"+String.join(",",l));
      }
      System.out.println(b);
    }
  }
}
